package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// adminFlags say where the admin listener of the running bridge is, and who asks it.
type adminFlags struct {
	URL       string         `name:"admin" default:"${admin_url}"`
	TokenFile string         `name:"admin-token-file" placeholder:"FILE" type:"path"`
	TLS       clientTLSFlags `embed:"" prefix:"admin-"`
	JSON      bool           `name:"json"`
}

// send sends a request to the running bridge.
func (f adminFlags) send(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	u, err := url.Parse(f.URL)
	if err != nil || u.Host == "" {
		return nil, usage("--admin: want a URL such as http://127.0.0.1:8081")
	}
	u.Path, u.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, usageError{err}
	}
	token, err := readToken(f.TokenFile)
	if err != nil {
		return nil, usageError{err}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	config, err := f.TLS.config("admin-")
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	switch {
	case untrusted(err):
		return nil, fmt.Errorf("%w: give --admin-ca or --admin-server-name", err)
	case err != nil:
		return nil, fmt.Errorf("%w: is the bridge running, with --admin-listen there?", err)
	case resp.StatusCode == http.StatusBadRequest && u.Scheme == "http":
		resp.Body.Close()
		return nil, fmt.Errorf("%s: does the listener speak TLS? Try https", resp.Status)
	}
	return resp, nil
}

// ask asks the running bridge, and decodes its answer into v.
func (f adminFlags) ask(ctx context.Context, method, path string, query url.Values, v any) error {
	resp, err := f.send(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && !json.Valid(data):
		if strings.HasPrefix(path, operator.PathQuarantine) {
			return errors.New("this bridge has no quarantine: it was started with --no-quarantine, or with --journal=off and without --data-dir")
		}
		return fmt.Errorf("this bridge does not know %s: does --admin name its admin listener, and is it of the same version?", path)
	case resp.StatusCode != http.StatusOK:
		var answer struct{ Message string }
		if json.Unmarshal(data, &answer) != nil {
			answer.Message = resp.Status
		}
		return fmt.Errorf("%s: %s", path, answer.Message)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// readToken reads a file with a token. It returns "" without a file.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	token, err := readPassword(path)
	if err != nil {
		return "", fmt.Errorf("--admin-token-file: %s: %w", path, err)
	}
	if len(token) < 16 {
		return "", fmt.Errorf("--admin-token-file: %s: want at least 16 characters, such as those of: openssl rand -hex 32", path)
	}
	if mistake := secretMistake(token); mistake != "" {
		return "", fmt.Errorf("--admin-token-file: %s: the token %s", path, mistake)
	}
	return token, nil
}
