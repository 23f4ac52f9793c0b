package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
)

// httpWire speaks HTTP/1.1 by hand on a kept connection.
type httpWire struct {
	net.Conn
	r *bufio.Reader
}

func dialHTTP(address string) (*httpWire, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &httpWire{conn, bufio.NewReaderSize(conn, 4<<10)}, nil
}

func (c *httpWire) exchange(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	return c.answer()
}

// answer reads one answer of known length (RFC 9112, section 6.2), which is all
// that the measured servers send.
func (c *httpWire) answer() error {
	var kept [64]byte
	status, length := kept[:0], -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			status = append(status, line...)
			continue
		}
		if len(line) == 0 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("%q without a Content-Length", string(status))
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		body := make([]byte, min(length, 500))
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		if _, err := c.r.Discard(length - len(body)); err != nil {
			return err
		}
		return &refusal{bytes.Clone(status), body}
	}
	_, err := c.r.Discard(length)
	return err
}
