package main

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
)

// kinds are media types: OCI's, and Docker's older ones that many registries still hold.
type kinds struct{ manifest, config, layer string }

var (
	ociKinds = kinds{
		"application/vnd.oci.image.manifest.v1+json",
		"application/vnd.oci.image.config.v1+json",
		"application/vnd.oci.image.layer.v1.tar+gzip",
	}
	dockerKinds = kinds{
		"application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.docker.container.image.v1+json",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
	}
)

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type execution struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

type configuration struct {
	Created string `json:"created"`
	platform
	Config execution `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

// written is a layer in the layout.
type written struct {
	digest, diffID string
	size           int64
}

// layout is an OCI image layout that is being written.
type layout struct{ folder string }

// writeImages writes the images as one OCI image layout.
func writeImages(plan *Plan, from sources, folder string) error {
	to := layout{folder}
	if err := os.MkdirAll(filepath.Join(folder, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	layers, err := to.layers(plan, from)
	if err != nil {
		return err
	}
	list := index{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json"}
	for _, image := range plan.Image {
		entry, err := to.image(plan, &image, layers)
		if err != nil {
			return fmt.Errorf("%s: %w", image.Name, err)
		}
		list.Manifests = append(list.Manifests, entry)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "index.json"), text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// layers writes every layer once, as many at a time as there are processors.
func (l layout) layers(plan *Plan, from sources) (map[string]written, error) {
	var names []string
	for name := range plan.Layer {
		names = append(names, name)
	}
	sort.Strings(names)
	results := make([]written, len(names))
	errors := make([]error, len(names))
	slots := make(chan struct{}, runtime.NumCPU())
	var all sync.WaitGroup
	for i, name := range names {
		all.Add(1)
		go func() {
			defer all.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i], errors[i] = l.layer(plan, from, name)
		}()
	}
	all.Wait()
	layers := map[string]written{}
	for i, name := range names {
		if errors[i] != nil {
			return nil, fmt.Errorf("the layer `%s`: %w", name, errors[i])
		}
		layers[name] = results[i]
	}
	return layers, nil
}

func (l layout) layer(plan *Plan, from sources, name string) (written, error) {
	described := plan.Layer[name]
	members, err := from.members(described.Entries)
	if err != nil {
		return written{}, err
	}
	if described.Libraries {
		if members, err = from.withLibraries(members); err != nil {
			return written{}, err
		}
	}
	file, err := os.CreateTemp(l.folder, ".layer-")
	if err != nil {
		return written{}, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	packed, plain := sha256.New(), sha256.New()
	zip := gzip.NewWriter(io.MultiWriter(file, packed))
	if err := writeTar(io.MultiWriter(zip, plain), members, plan.Time); err != nil {
		return written{}, err
	}
	if err := zip.Close(); err != nil {
		return written{}, err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return written{}, err
	}
	result := written{fmt.Sprintf("sha256:%x", packed.Sum(nil)), fmt.Sprintf("sha256:%x", plain.Sum(nil)), size}
	if err := file.Chmod(0o644); err != nil {
		return written{}, err
	}
	return result, os.Rename(file.Name(), l.blob(result.digest))
}

func (l layout) blob(digest string) string {
	return filepath.Join(l.folder, "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
}

// put writes a document as a blob.
func (l layout) put(kind string, document any) (descriptor, error) {
	text, err := json.Marshal(document)
	if err != nil {
		return descriptor{}, err
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(text))
	return descriptor{MediaType: kind, Digest: digest, Size: int64(len(text))}, os.WriteFile(l.blob(digest), text, 0o644)
}

func (l layout) image(plan *Plan, image *Image, layers map[string]written) (descriptor, error) {
	kind := ociKinds
	if image.Docker {
		kind = dockerKinds
	}
	created := plan.Time.UTC().Format("2006-01-02T15:04:05Z")
	machine := platform{Architecture: "amd64", OS: "linux"}
	config := configuration{Created: created, platform: machine}
	config.Config = execution{
		User: image.User, Env: image.Env, Entrypoint: image.Entrypoint, Cmd: image.Cmd, WorkingDir: image.Workdir,
	}
	if config.Config.WorkingDir == "" {
		config.Config.WorkingDir = "/"
	}
	if len(config.Config.Env) == 0 {
		config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	for _, port := range image.Ports {
		if config.Config.ExposedPorts == nil {
			config.Config.ExposedPorts = map[string]struct{}{}
		}
		config.Config.ExposedPorts[port] = struct{}{}
	}
	config.RootFS.Type = "layers"
	described := manifest{SchemaVersion: 2, MediaType: kind.manifest}
	for _, name := range image.Layers {
		layer := layers[name]
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
		config.History = append(config.History, history{created, "layer " + name})
		described.Layers = append(described.Layers, descriptor{MediaType: kind.layer, Digest: layer.digest, Size: layer.size})
	}
	var err error
	if described.Config, err = l.put(kind.config, config); err != nil {
		return descriptor{}, err
	}
	entry, err := l.put(kind.manifest, described)
	if err != nil {
		return descriptor{}, err
	}
	_, tag, found := strings.Cut(filepath.Base(image.Name), ":")
	if !found {
		return descriptor{}, fmt.Errorf("it has no tag")
	}
	entry.Platform = &machine
	entry.Annotations = map[string]string{
		"io.containerd.image.name":          image.Name,
		"org.opencontainers.image.ref.name": tag,
	}
	return entry, nil
}
