// Package provider describes the service that sends the webhooks. So far it makes sample notifications, for jobbridge send and for tests:
//
//	payload := provider.Generation("job-1", "COMPLETED")
package provider

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// Generation returns a notification of Sync about a generation with this id and status. The same id and status give the same bytes each
// time, as they do at Sync.
func Generation(id, status string) []byte {
	h := fnv.New32a()
	h.Write([]byte(id)) // a hash returns no error
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.Sum32()%(24*3600*1000)) * time.Millisecond)
	outcome := `"outputUrl":null,"outputDuration":null,"error":"The generation did not finish.","error_code":"generation_pipeline_failed"`
	switch strings.ToUpper(status) {
	case "COMPLETED":
		url := quoted("https://assets.example/out/" + id + ".mp4")
		outcome = fmt.Sprintf(`"outputUrl":%s,"outputDuration":12.48,"error":null,"error_code":null`, url)
	case "PENDING", "PROCESSING":
		outcome = `"outputUrl":null,"outputDuration":null,"error":null,"error_code":null`
	}
	return fmt.Appendf(nil, `{"id":%s,"createdAt":%q,"status":%s,"model":"lipsync-2",`+
		`"input":[{"type":"video","url":%s},{"type":"audio","url":%s}],`+
		`"options":{"output_format":"mp4","sync_mode":"cut_off","temperature":0.5},%s,"webhookUrl":"https://bridge.example/webhook"}`,
		quoted(id), created.Format("2006-01-02T15:04:05.000Z"), quoted(status),
		quoted("https://assets.example/video/"+id+".mp4"), quoted("https://assets.example/audio/"+id+".wav"), outcome)
}

// quoted returns a string in JSON.
func quoted(s string) []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be encoded
	}
	return data
}
