package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpcWire calls inference.GRPCInferenceService/ModelInfer, one call after the
// other, on a connection of its own: gRPC over HTTP/2 without TLS (the protocol
// is grpc/grpc, doc/PROTOCOL-HTTP2.md). Frames are x/net/http2's; a whole gRPC
// library would take as much of the shared machine as the server does.
type grpcWire struct {
	conn    net.Conn
	w       *bufio.Writer
	frames  *http2.Framer
	headers []byte // of every call, as HPACK without a table
	stream  uint32 // of the last call

	window       int64 // bytes that the connection may still send
	streamWindow int64 // bytes that the call may still send
	initial      int64 // streamWindow of a new call
	largest      int   // frame that the server takes
	unread       uint32
	answer       grpcAnswer // of the last call
}

// inferMethod is where a prediction is asked for.
const inferMethod = "/inference.GRPCInferenceService/ModelInfer"

// answerWindow is how much the server may send without being asked for more.
const answerWindow = 1 << 26

func dialGRPC(address, token string) (*grpcWire, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	// The sizes to begin with are those of RFC 9113, sections 6.5.2 and 6.9.2.
	c := &grpcWire{conn: conn, w: bufio.NewWriterSize(conn, 32<<10), window: 65535, initial: 65535, largest: 16384}
	c.frames = http2.NewFramer(c.w, bufio.NewReaderSize(conn, 16<<10))
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.frames.SetReuseFrames()
	c.headers = inferHeaders(address, token)
	if _, err = c.w.WriteString(http2.ClientPreface); err == nil {
		err = c.frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: answerWindow},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	}
	if err == nil {
		err = c.frames.WriteWindowUpdate(0, answerWindow)
	}
	if err == nil {
		err = c.w.Flush()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *grpcWire) Close() error { return c.conn.Close() }

// inferHeaders are the same bytes for every call: fields that ask not to be
// remembered.
func inferHeaders(address, token string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0)
	e.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", inferMethod}, {":authority", address},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", "Bearer " + token}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // a bytes.Buffer takes all
	}
	return b.Bytes()
}

// exchange calls the method with a message.
func (c *grpcWire) exchange(message []byte) error {
	if c.stream == 0 {
		c.stream = 1
	} else {
		c.stream += 2
	}
	c.streamWindow, c.answer = c.initial, grpcAnswer{}
	err := c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.headers, EndHeaders: true})
	if err != nil {
		return err
	}
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	if err := c.send(prefix, false); err != nil {
		return err
	}
	if err := c.send(message, true); err != nil {
		return err
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	for !c.answer.done {
		if err := c.receive(); err != nil {
			return err
		}
	}
	return c.answer.check()
}

// send writes data as far as the server's windows go, and waits for more of
// them.
func (c *grpcWire) send(data []byte, last bool) error {
	for {
		n := int(min(int64(len(data)), int64(c.largest), c.window, c.streamWindow))
		if n <= 0 && len(data) > 0 {
			if err := c.w.Flush(); err != nil {
				return err
			}
			if err := c.receive(); err != nil {
				return err
			}
			if c.answer.done { // refused before it was read
				if err := c.answer.check(); err != nil {
					return err
				}
				return fmt.Errorf("the server answered before it had the request")
			}
			continue
		}
		end := n == len(data)
		if err := c.frames.WriteData(c.stream, last && end, data[:n]); err != nil {
			return err
		}
		c.window -= int64(n)
		c.streamWindow -= int64(n)
		if data = data[n:]; end {
			return nil
		}
	}
}

// grpcAnswer is what came of one call so far.
type grpcAnswer struct {
	bytes           int // of messages, their prefixes included
	http            string
	status, message string
	done            bool
}

func (a *grpcAnswer) check() error {
	switch {
	case a.http != "200" && a.http != "":
		return fmt.Errorf("the server answered HTTP status %s", a.http)
	case a.status != "0":
		return fmt.Errorf("the server answered gRPC status %q: %s", a.status, a.message)
	case a.bytes <= 5:
		return fmt.Errorf("the server answered without a message")
	}
	return nil
}

// receive reads one frame.
func (c *grpcWire) receive() error {
	a := &c.answer
	frame, err := c.frames.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.DataFrame:
		if f.StreamID == c.stream {
			a.bytes += len(f.Data())
			a.done = f.StreamEnded()
		}
		// What was read is given back in large steps.
		if c.unread += f.Length; c.unread > answerWindow/4 {
			if err := c.frames.WriteWindowUpdate(0, c.unread); err != nil {
				return err
			}
			c.unread = 0
			return c.w.Flush()
		}
	case *http2.MetaHeadersFrame:
		if f.StreamID == c.stream {
			a.fields(f)
		}
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		switch f.StreamID {
		case 0:
			c.window += int64(f.Increment)
		case c.stream:
			c.streamWindow += int64(f.Increment)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			if err := c.frames.WritePing(true, f.Data); err != nil {
				return err
			}
			return c.w.Flush()
		}
	case *http2.RSTStreamFrame:
		if f.StreamID == c.stream {
			return fmt.Errorf("the server ended the call: %s", f.ErrCode)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server ended the connection: %s %s", f.ErrCode, f.DebugData())
	}
	return nil
}

func (a *grpcAnswer) fields(f *http2.MetaHeadersFrame) {
	for _, h := range f.Fields {
		switch h.Name {
		case ":status":
			a.http = h.Value
		case "grpc-status":
			a.status = h.Value
		case "grpc-message":
			a.message = h.Value
		}
	}
	a.done = f.StreamEnded()
}

// settings takes over what the server asks for, and says so.
func (c *grpcWire) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		c.streamWindow += int64(v) - c.initial // RFC 9113, section 6.9.2
		c.initial = int64(v)
	}
	if v, ok := f.Value(http2.SettingMaxFrameSize); ok {
		c.largest = int(v)
	}
	if err := c.frames.WriteSettingsAck(); err != nil {
		return err
	}
	return c.w.Flush()
}
