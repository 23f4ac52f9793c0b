package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of onnx.proto (ONNX IR specification) on the ways from a model
// to its tensors.
const (
	modelGraph, modelFunctions                     = 7, 25
	graphNode, graphInitializer, graphSparse       = 1, 5, 15
	nodeAttribute                                  = 5
	attrTensor, attrGraph, attrTensors, attrGraphs = 5, 6, 10, 11
	attrSparse, attrSparses                        = 22, 23
	functionNode, functionAttribute                = 7, 11
	sparseValues, sparseIndices                    = 1, 2
	tensorRawData, tensorExternal, tensorLocation  = 9, 13, 14
	entryKey, entryValue                           = 1, 2
)

// maxONNX is the largest protobuf message there is.
const maxONNX = math.MaxInt32

// modelFile is an ONNX file whose external weights are read in their places:
// the server takes one file and refuses external data.
type modelFile struct {
	dir      *os.Root // the model's folder: a downloaded model must not send other files of its user
	files    map[string]*os.File
	parts    []part
	external int
}

// part is a piece of the outgoing file: bytes, or a section of a data file.
type part struct {
	bytes []byte
	file  *os.File
	off   int64
	size  int64
}

// openModel reads the file at path and finds its external tensors. Weights are
// not read before Reader.
func openModel(path string) (*modelFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &modelFile{files: map[string]*os.File{}}
	if !bytes.Contains(data, []byte("location")) { // no external_data entry
		m.parts = []part{{bytes: data, size: int64(len(data))}}
		return m, nil
	}
	if m.dir, err = os.OpenRoot(filepath.Dir(path)); err != nil {
		return nil, err
	}
	parts, err := m.rewrite(data, modelMessage, 0)
	if err == nil && size(parts) > maxONNX {
		err = fmt.Errorf("with its weights the model has %d bytes; an ONNX file ends at 2 GiB", size(parts))
	}
	if errors.Is(err, errNotONNX) { // let the server say what is wrong with it
		parts, err = []part{{bytes: data, size: int64(len(data))}}, nil
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	m.parts = parts
	return m, nil
}

// External is how many tensors stood in other files.
func (m *modelFile) External() int { return m.external }

// Size is the length of what Reader gives.
func (m *modelFile) Size() int64 { return size(m.parts) }

// Reader gives the whole file from its start.
func (m *modelFile) Reader() io.Reader {
	readers := make([]io.Reader, len(m.parts))
	for i, p := range m.parts {
		if p.file != nil {
			readers[i] = io.NewSectionReader(p.file, p.off, p.size)
		} else {
			readers[i] = bytes.NewReader(p.bytes)
		}
	}
	return io.MultiReader(readers...)
}

// Close frees the data files.
func (m *modelFile) Close() {
	for _, f := range m.files {
		f.Close()
	}
	if m.dir != nil {
		m.dir.Close()
	}
}

func size(parts []part) (n int64) {
	for _, p := range parts {
		n += p.size
	}
	return n
}

// message names, for each field that leads to a tensor, the kind of message in
// it. tensorMessage is where the way ends.
type message map[protowire.Number]*message

var (
	tensorMessage   = &message{}
	sparseMessage   = &message{sparseValues: tensorMessage, sparseIndices: tensorMessage}
	nodeMessage     = &message{}
	graphMessage    = &message{graphNode: nodeMessage, graphInitializer: tensorMessage, graphSparse: sparseMessage}
	attrMessage     = &message{attrTensor: tensorMessage, attrTensors: tensorMessage, attrGraph: graphMessage, attrGraphs: graphMessage, attrSparse: sparseMessage, attrSparses: sparseMessage}
	functionMessage = &message{functionNode: nodeMessage, functionAttribute: attrMessage}
	nodeFields      = &message{nodeAttribute: attrMessage}
	modelMessage    = &message{modelGraph: graphMessage, modelFunctions: functionMessage}
)

// errNotONNX leaves the judgement to the server, whose check explains.
var errNotONNX = errors.New("not an ONNX file")

// maxDepth bounds graphs within graphs; the server takes fewer.
const maxDepth = 200

// rewrite copies a message, with external tensors put in their places.
func (m *modelFile) rewrite(data []byte, kind *message, depth int) ([]part, error) {
	if depth > maxDepth {
		return nil, errNotONNX
	}
	if kind == tensorMessage {
		return m.tensor(data)
	}
	if kind == nodeMessage {
		kind = nodeFields // a node holds graphs, which hold nodes
	}
	var out []part
	plain := 0 // start of the bytes that are copied as they are
	for at := 0; at < len(data); {
		num, typ, n := protowire.ConsumeTag(data[at:])
		if n < 0 {
			return nil, errNotONNX
		}
		length := protowire.ConsumeFieldValue(num, typ, data[at+n:])
		if length < 0 {
			return nil, errNotONNX
		}
		end := at + n + length
		if inner := (*kind)[num]; inner != nil && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data[at+n:])
			before := m.external
			parts, err := m.rewrite(value, inner, depth+1)
			if err != nil {
				return nil, err
			}
			if m.external > before { // something in it changed
				head := protowire.AppendTag(nil, num, protowire.BytesType)
				head = protowire.AppendVarint(head, uint64(size(parts)))
				out = appendBytes(out, data[plain:at])
				out = appendBytes(out, head)
				out = append(out, parts...)
				plain = end
			}
		}
		at = end
	}
	return appendBytes(out, data[plain:]), nil
}

func appendBytes(parts []part, b []byte) []part {
	if len(b) == 0 {
		return parts
	}
	return append(parts, part{bytes: b, size: int64(len(b))})
}

// tensor replaces external_data and data_location by raw_data.
func (m *modelFile) tensor(data []byte) ([]part, error) {
	entries := map[string]string{}
	var kept []byte
	for at := 0; at < len(data); {
		num, typ, n := protowire.ConsumeTag(data[at:])
		if n < 0 {
			return nil, errNotONNX
		}
		length := protowire.ConsumeFieldValue(num, typ, data[at+n:])
		if length < 0 {
			return nil, errNotONNX
		}
		switch {
		case num == tensorExternal && typ == protowire.BytesType:
			value, _ := protowire.ConsumeBytes(data[at+n:])
			k, v, err := entry(value)
			if err != nil {
				return nil, err
			}
			entries[k] = v
		case num == tensorLocation:
		default:
			kept = append(kept, data[at:at+n+length]...)
		}
		at += n + length
	}
	if entries["location"] == "" {
		return []part{{bytes: data, size: int64(len(data))}}, nil
	}
	section, err := m.section(entries)
	if err != nil {
		return nil, err
	}
	m.external++
	kept = protowire.AppendTag(kept, tensorRawData, protowire.BytesType)
	kept = protowire.AppendVarint(kept, uint64(section.size))
	return append(appendBytes(nil, kept), section), nil
}

// entry reads a StringStringEntryProto.
func entry(data []byte) (key, value string, err error) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 || typ != protowire.BytesType {
			return "", "", errNotONNX
		}
		b, length := protowire.ConsumeBytes(data[n:])
		if length < 0 {
			return "", "", errNotONNX
		}
		if num == entryKey {
			key = string(b)
		} else if num == entryValue {
			value = string(b)
		}
		data = data[n+length:]
	}
	return key, value, nil
}

// section finds the bytes that the entries name, in the model's own folder.
func (m *modelFile) section(entries map[string]string) (part, error) {
	name := entries["location"]
	f := m.files[name]
	if f == nil {
		var err error
		if f, err = m.open(name); err != nil {
			return part{}, err
		}
		m.files[name] = f
	}
	info, err := f.Stat()
	if err != nil {
		return part{}, err
	}
	p := part{file: f, size: -1}
	for key, to := range map[string]*int64{"offset": &p.off, "length": &p.size} {
		if text, ok := entries[key]; ok {
			if *to, err = strconv.ParseInt(text, 10, 64); err != nil || *to < 0 {
				return part{}, fmt.Errorf("the model says %s %q of %q, which is no number", key, text, name)
			}
		}
	}
	if p.size < 0 {
		p.size = info.Size() - p.off
	}
	if p.off > info.Size() || p.size < 0 || p.size > info.Size()-p.off {
		return part{}, fmt.Errorf("%q is shorter than the model says; fetch or export it again", name)
	}
	return p, nil
}

// memoryMarker stands for a file where ONNX Runtime wrote out a model whose
// weights it had in memory.
const memoryMarker = "*/_ORT_MEM_ADDR_/*"

// open opens a file of weights by the name that the model gives it.
func (m *modelFile) open(name string) (*os.File, error) {
	if name == memoryMarker {
		return nil, errors.New("the model was written by a running ONNX Runtime, whose memory its weights are in; they can't be sent. Export the model again, with its weights")
	}
	// Keys and settings of users stand in such files, weights don't.
	outside := !filepath.IsLocal(name)
	for _, element := range strings.Split(filepath.ToSlash(name), "/") {
		outside = outside || strings.HasPrefix(element, ".")
	}
	if info, err := m.dir.Lstat(name); !outside && err == nil && info.Mode()&os.ModeSymlink != 0 {
		_, err = m.dir.Stat(name) // fails where the link leads out of the folder, or to nothing
		outside = err != nil && !errors.Is(err, os.ErrNotExist)
	}
	if outside {
		return nil, fmt.Errorf("the model asks for %q, a hidden file or one outside its folder, as its weights; such files are not sent. They should stand beside it under a plain name", name)
	}
	f, err := m.dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("the model's weights should stand in %q beside it: %w; put that file there", name, pathReason(err))
	}
	return f, nil
}

func pathReason(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
