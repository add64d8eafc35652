package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/opencontainers/go-digest"
)

// authorities is where Go programs on Linux find the certificates of public CAs.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

// entry is a file or, with a slash at the end of its name, a folder.
type entry struct {
	name  string
	data  []byte
	mode  int64
	owner int
}

// image writes an image for docker load, without a registry and without an engine. Its configuration is what buildkit makes of the
// Dockerfile. Its one layer has the binary, the data folder, a user and the CA certificates of this machine in the place of the base
// image, whose other files a static binary does not need. The same files give the same bytes.
func image(dockerfile, binary, arch, tag, out string) error {
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		return err
	}
	result, err := dockerfile2llb.Dockerfile2LLB(context.Background(), text, dockerfile2llb.ConvertOpt{MetaResolver: offline{}})
	if err != nil {
		return err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	certificates, err := os.ReadFile(authorities)
	if err != nil {
		return err
	}
	const user = 65532
	layer, err := archive([]entry{
		{"data/", nil, 0o700, user},
		{"etc/passwd", []byte("nonroot:x:65532:65532::/data:/sbin/nologin\n"), 0o644, 0},
		{authorities[1:], certificates, 0o644, 0},
		{"tmp/", nil, 0o1777, 0},
		{"usr/local/bin/jobbridge", program, 0o755, 0},
	})
	if err != nil {
		return err
	}
	config := result.Image
	config.Architecture, config.Created, config.History = arch, nil, nil
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", []digest.Digest{digest.FromBytes(layer)}
	configJSON, err := json.Marshal(config)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(configJSON)
	name := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{tag}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	whole, err := archive([]entry{{name, configJSON, 0o644, 0}, {"layer.tar", layer, 0o644, 0}, {"manifest.json", manifest, 0o644, 0}})
	if err != nil {
		return err
	}
	return os.WriteFile(out, whole, 0o644)
}

// archive returns a tar archive without times.
func archive(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Uid: e.owner, Gid: e.owner}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
