//go:build linux && (amd64 || arm64)

package worker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"modelgate/models"
)

// What is said over the control socket, each a frame of its length (u32,
// little-endian) and JSON. The server begins. After the last message, each
// byte from the worker says that runs are completed; see shared.armed.
type (
	// helloMessage: what the worker is to be.
	helloMessage struct {
		Threads   int
		MaxMemory int64
	}
	// readyMessage: the runtime is set up, and the cage is closed.
	readyMessage struct {
		Version     string
		Protections Protections
	}
	// modelMessage comes with the descriptor of the file.
	modelMessage struct{ Size int64 }
	// loadedMessage: the model is loaded, or not. Cause is the runtime's words,
	// Peak the most bytes that were resident so far.
	loadedMessage struct {
		Status uint32
		Cause  string
		Graph  saidGraph
		Peak   int64
	}
	// saidGraph is a models.Graph that is read with bounds.
	saidGraph struct{ Inputs, Outputs saidValues }
)

// saidValues are read one by one, up to maxValues: else a frame of short ones
// would take many times its size.
type saidValues []models.GraphValue

// maxValues is how many inputs or outputs a worker may tell of; a file has
// fewer (models.Limits.Ports).
const maxValues = 4096

// maxDimensions is more than the check of a file lets through.
const maxDimensions = 64

// UnmarshalJSON fails for more than maxValues.
func (v *saidValues) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return err // null
	}
	for d.More() {
		if len(*v) == maxValues {
			return fmt.Errorf("worker: more than %d values in a graph", maxValues)
		}
		var value models.GraphValue
		if err := d.Decode(&value); err != nil {
			return err
		}
		if len(value.Shape) > maxDimensions {
			return fmt.Errorf("worker: a value of %d dimensions", len(value.Shape))
		}
		*v = append(*v, value)
	}
	return nil
}

// maxFrame bounds a frame: names of 512 inputs and outputs, written out.
const maxFrame = 8 << 20

// dial makes a descriptor a connection, which has a copy of it.
func dial(file *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// send writes a message, with descriptors.
func send(conn *net.UnixConn, m any, files ...*os.File) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("worker: a message of %d bytes is too long", len(body))
	}
	frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
	if len(files) == 0 {
		_, err = conn.Write(frame)
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	// The descriptors come with the length, which is too short to be cut.
	if _, _, err := conn.WriteMsgUnix(frame[:4], unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	_, err = conn.Write(frame[4:])
	return err
}

// receive reads a message and takes no descriptors: those of a worker would
// be as hostile as all else that it says.
func receive(conn *net.UnixConn, m any) error {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	return receiveBody(conn, head, m)
}

// receiveWith reads a message that comes with a descriptor.
func receiveWith(conn *net.UnixConn, m any) (fd int, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n != len(head) || len(messages) != 1 {
		return -1, errors.Join(err, errors.New("worker: a message came without its descriptor"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(err, errors.New("worker: a message came without its descriptor"))
	}
	return fds[0], receiveBody(conn, head, m)
}

func receiveBody(conn *net.UnixConn, head [4]byte, m any) error {
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("worker: a message of %d bytes is too long", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return json.Unmarshal(body, m)
}
