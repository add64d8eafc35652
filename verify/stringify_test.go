package verify_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/verify"
)

// text is a body in testdata. A body that is not valid UTF-8 is given in base64.
type text struct {
	Body   string `json:"body"`
	Body64 string `json:"body64"`
}

func (x text) bytes(t *testing.T) []byte {
	t.Helper()
	if x.Body64 == "" {
		return []byte(x.Body)
	}
	b, err := base64.StdEncoding.DecodeString(x.Body64)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVectors[T any](t *testing.T, name string) (vectors []T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	return vectors
}

func TestStringifyVectors(t *testing.T) {
	type vector struct {
		text
		Printed *string `json:"printed"` // null if Node rejects the body
	}
	for _, x := range readVectors[vector](t, "stringify.json") {
		body := x.bytes(t)
		got, err := verify.Stringify(body, 0)
		switch {
		case x.Printed == nil && !errors.Is(err, verify.ErrSyntax):
			t.Errorf("%q: %q, %v; want ErrSyntax", body, got, err)
		case x.Printed != nil && (err != nil || string(got) != *x.Printed):
			t.Errorf("%q: %q, %v; want %q", body, got, err, *x.Printed)
		}
	}
}

func TestStringifyLimit(t *testing.T) {
	for _, test := range []struct {
		name  string
		body  string
		limit int
		want  error
	}{
		{"just fits", `[1e20]`, 23, nil},
		{"one byte too many", `[1e20]`, 22, verify.ErrTooLarge},
		{"no limit", `[1e20]`, 0, nil},
		{"negative is no limit", `[1e20]`, -1, nil},
		{"white space does not count", strings.Repeat(" ", 100) + `[]`, 2, nil},
		{"a member that is removed does not count", `{"a":"` + strings.Repeat("x", 20) + `","a":1}`, 7, nil},
		{"a removed member may reach 8 times the limit", `{"a":"` + strings.Repeat("x", 50) + `","a":1}`, 7, nil},
		{"a removed member of more than 8 times the limit", `{"a":"` + strings.Repeat("x", 58) + `","a":1}`, 7, verify.ErrTooLarge},
		{"a text that grows is not read to its end", "[" + strings.Repeat("1e20,", 1000) + "!", 100, verify.ErrTooLarge},
		{"a syntax error comes before the limit", "[1e20!", 10, verify.ErrSyntax},
	} {
		if _, err := verify.Stringify([]byte(test.body), test.limit); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestStringifyDoesNotChangeTheBody(t *testing.T) {
	body := []byte("\ufeff{\"b\":1,\"0\":\"\xff\"}")
	was := bytes.Clone(body)
	if _, err := verify.Stringify(body, 0); err != nil || !bytes.Equal(body, was) {
		t.Errorf("%q, %v", body, err)
	}
}

// hostile maps the names of texts of about 1 MiB each to the texts, which are designed to make Stringify slow.
var hostile = map[string]struct {
	text string
	want error
}{
	"arrays without end":        {strings.Repeat("[", 1<<20), verify.ErrSyntax},
	"objects without end":       {strings.Repeat(`{"a":`, 1<<20/5), verify.ErrSyntax},
	"nested arrays":             {strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19), nil},
	"nested objects":            {strings.Repeat(`{"":`, 200_000) + "0" + strings.Repeat("}", 200_000), nil},
	"nested objects to reorder": {strings.Repeat(`{"b":0,"1":`, 80_000) + "0" + strings.Repeat("}", 80_000), nil},
	"nested duplicates":         {strings.Repeat(`{"a":0,"a":`, 80_000) + "0" + strings.Repeat("}", 80_000), nil},
	"one key":                   {"{" + strings.Repeat(`"":0,`, 200_000) + `"":0}`, nil},
	"distinct keys":             {members(100_000, func(i int) int { return i }, `"k%d":0`), nil},
	"integer keys, descending":  {members(100_000, func(i int) int { return 1_000_000 - i }, `"%d":0`), nil},
	"numbers that grow":         {"[" + strings.Repeat("1e20,", 200_000) + "0]", nil},
	"numbers close to 0":        {"[" + strings.Repeat("5e-324,", 150_000) + "0]", verify.ErrTooLarge},
	"numbers halfway":           {"[" + strings.Repeat("2.22507385850720113605740979670913e-308,", 26_000) + "0]", verify.ErrTooLarge},
	"numbers halfway, e-99":     {"[" + strings.Repeat("1.2345000000000000866e-99,", 40_000) + "0]", nil},
	"numbers halfway, e20":      {"[" + strings.Repeat("36893488147419107329.0000000000000001,", 28_000) + "0]", nil},
	"one long number":           {strings.Repeat("1", 1<<20), nil},
	"escapes":                   {`"` + strings.Repeat(`\ud83d`, 1<<20/6) + `"`, nil},
	"invalid UTF-8":             {`"` + strings.Repeat("\xff", 1<<20) + `"`, nil},
}

func members(n int, number func(int) int, form string) string {
	var b strings.Builder
	for i := range n {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, form, number(i))
	}
	return b.String() + "}"
}

// TestStringifyHostile fails by a stack overflow or a timeout if depth or the number of keys costs more than it should.
// BenchmarkStringifyHostile measures the cost.
func TestStringifyHostile(t *testing.T) {
	for name, body := range hostile {
		t.Run(name, func(t *testing.T) {
			result, err := verify.Stringify([]byte(body.text), 0)
			if !errors.Is(err, body.want) {
				t.Fatalf("%v, want %v", err, body.want)
			}
			if err != nil {
				return
			}
			again, err := verify.Stringify(result, 0)
			if err != nil || !bytes.Equal(again, result) {
				t.Errorf("%.80q becomes %.80q, %v", result, again, err)
			}
		})
	}
}

// TestStringifyPrintsDeeperThanNode20 checks that nesting has no limit. JSON.stringify fails in Node 20 at about 4,000
// levels, in Node 25 beyond 300,000.
func TestStringifyPrintsDeeperThanNode20(t *testing.T) {
	body := strings.Repeat(`[{"a":`, 400_000) + "0" + strings.Repeat("}]", 400_000)
	if got, err := verify.Stringify([]byte(body), 0); err != nil || string(got) != body {
		t.Errorf("%.80q, %v", got, err)
	}
}

func ExampleStringify() {
	result, err := verify.Stringify([]byte(`{ "b": 1.0, "2": "\u0041", "1": 1E400, "b": "\u00e9" }`), 0)
	fmt.Println(string(result), err)
	// Output: {"1":null,"2":"A","b":"é"} <nil>
}

func FuzzStringify(f *testing.F) {
	f.Add([]byte(`{"b":1.0,"2":"\u0041","1":1E400,"b":[5e-324,true,null]}`))
	f.Add([]byte("\ufeff\"\xe2\x82\\ud83d\\ude00\""))
	f.Add([]byte(`{"a":{"1":0,"0":{"z":1,"z":2}},"a":{"\u0061":-0}}`))
	largeExponent := regexp.MustCompile(`[eE][-+]?[0-9]{3}`)
	f.Fuzz(func(t *testing.T, body []byte) {
		result, err := verify.Stringify(body, 0)
		if errors.Is(err, verify.ErrTooLarge) {
			if len(body) <= 800 && len(largeExponent.FindAll(body, -1)) <= 100 {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if err != nil {
			// encoding/json also rejects control characters, and also accepts nesting of up to 10,000 levels.
			if !errors.Is(err, verify.ErrSyntax) || json.Valid(body) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		again, err := verify.Stringify(result, len(result))
		if err != nil || !bytes.Equal(again, result) {
			t.Fatalf("%q becomes %q, %v", result, again, err)
		}
		if _, err := verify.Stringify(body, len(result)-1); len(result) > 1 && !errors.Is(err, verify.ErrTooLarge) {
			t.Fatalf("%q: %v above the limit", body, err)
		}
		if !json.Valid(result) && bytes.Count(result, []byte("["))+bytes.Count(result, []byte("{")) < 10_000 {
			t.Fatalf("%q becomes %q, which is not JSON", body, result)
		}
	})
}

func benchmark(b *testing.B, body []byte) {
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = verify.Stringify(body, 0)
	}
}

// indented is an event of 1 KB as a proxy could have reformatted it.
var indented = []byte(`{
  "id": "6533643b-acbe-4c40-967e-d9ba9baac39e",
  "createdAt": "2024-11-04T12:00:00.000Z",
  "status": "COMPLETED",
  "model": "lipsync-2",
  "input": [
    {"type": "video", "url": "https://assets.example/takes/0001/face-camera-a.mp4", "segments_secs": [[0.5, 4.25], [8, 11.75]]},
    {"type": "audio", "url": "https://assets.example/takes/0001/voice-over-final.wav", "assetId": null},
    {"type": "text", "provider": {"name": "elevenlabs", "voiceId": "EXAVITQu4vr4xnSDxMaL", ` +
	`"script": "Guten Tag, sch\u00f6n, dass Sie da sind.", "stability": 0.75, "similarityBoost": 0.8}}
  ],
  "options": {"sync_mode": "cut_off", "temperature": 0.5, "output_format": "mp4", "output_resolution": [1920, 1080]},
  "outputUrl": "https:\/\/assets.example\/out\/6533643b-acbe-4c40-967e-d9ba9baac39e.mp4` +
	`?signature=a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4&expires=1730728800",
  "segmentOutputUrl": null,
  "outputDuration": 12.48,
  "error": null,
  "error_code": null,
  "webhookUrl": "https://hooks.example/webhook"
}`)

func BenchmarkStringify1KB(b *testing.B) { benchmark(b, indented) }

func BenchmarkStringify64KB(b *testing.B) {
	benchmark(b, []byte("["+strings.Repeat(string(indented)+",", 65)+"0]"))
}

func BenchmarkStringifyHostile(b *testing.B) {
	for name, body := range hostile {
		b.Run(name, func(b *testing.B) { benchmark(b, []byte(body.text)) })
	}
}
