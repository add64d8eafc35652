package forward

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/textproto"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// decodeGet returns the message in an answer of STREAM.MSG.GET.
func decodeGet(data []byte) (*nats.Msg, error) {
	var answer struct {
		Message struct {
			Subject string `json:"subject"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		if answer.Error.Code == 10037 {
			return nil, jetstream.ErrMsgNotFound
		}
		return nil, errors.New(answer.Error.Description)
	}
	m := &nats.Msg{Subject: answer.Message.Subject, Header: nats.Header{}, Data: answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		reader := textproto.NewReader(bufio.NewReader(bytes.NewReader(answer.Message.Header)))
		if _, err := reader.ReadLine(); err != nil {
			return nil, err
		}
		for line, err := reader.ReadLine(); err == nil && line != ""; line, err = reader.ReadLine() {
			name, value, _ := bytes.Cut([]byte(line), []byte(": "))
			m.Header[string(name)] = append(m.Header[string(name)], string(value))
		}
	}
	return m, nil
}

func removeCheckpoint(t testing.TB, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, checkpointName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
