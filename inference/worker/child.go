//go:build linux && (amd64 || arm64)

package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"modelgate/inference"
	"modelgate/models"
)

// batchFor is how long a worker gathers answers before it tells the server,
// while it has more to do.
const batchFor = 400 * time.Microsecond

// Child is the worker process: what the hidden subcommand runs, before
// anything else. args is what followed its name. It returns the exit code.
func Child(args []string, open OpenEngine) int {
	in, err := enter(args)
	if err == nil {
		err = serve(in, open)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

// serve is the second stage: it sets up the runtime, closes the cage, takes
// the model, and runs it until the server hangs up.
func serve(in *inside, open OpenEngine) error {
	// What ps and the kernel's log call it; best effort, for the main thread.
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("modelgate-model\x00"))), 0, 0, 0)
	c := &child{bell: os.NewFile(controlFD, "control")}
	control, err := dial(c.bell)
	if err != nil {
		return err
	}
	defer control.Close()
	var hello helloMessage
	if err := receive(control, &hello); err != nil {
		return err
	}
	if err := c.attach(); err != nil {
		return err
	}
	debug.SetGCPercent(400) // little lives in Go's heap here, see the server's own
	c.memory = inference.NewMemory(int64(c.room)).Within(c.outputs(), discard, func() {})
	engine, version, err := open(libraryPath, EngineConfig{Memory: c.memory, MaxMemory: hello.MaxMemory, Loading: yield})
	if err != nil {
		return err
	}
	holds, err := in.shut()
	if err != nil {
		return err
	}
	if err := send(control, readyMessage{Version: version, Protections: holds}); err != nil {
		return err
	}
	if err := c.load(control, engine); err != nil {
		return err
	}
	for range max(hello.Threads, 1) {
		go c.run()
	}
	// The server says nothing more; the end of its side is the end of ours.
	if _, err := control.Read(make([]byte, 1)); err == nil {
		return errors.New("the server said something unforeseen")
	}
	os.Exit(0) // at once, whatever runs
	return nil
}

// child is the worker's side of the shared memory.
type child struct {
	arena
	bell    *os.File // the control socket, to wake the server by
	memory  *inference.Memory
	session inference.Session

	mu       sync.Mutex
	answered [slots][]inference.Value // outputs that the server has not given back; guarded by mu
	rounds   [slots]uint32            // runs of each slot so far; guarded by mu
}

// attach maps the shared memory.
func (c *child) attach() error {
	var info unix.Stat_t
	if err := unix.Fstat(memoryFD, &info); err != nil {
		return err
	}
	mapping, err := unix.Mmap(memoryFD, 0, int(info.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	c.arena, err = arenaOf(mapping)
	return err
}

// load takes the model, which comes in memory of its own, and tells how its
// load went. A model that can't be loaded ends the worker without an error.
func (c *child) load(control *net.UnixConn, engine inference.Engine) error {
	var m modelMessage
	fd, err := receiveWith(control, &m)
	if err != nil {
		return err
	}
	file, err := unix.Mmap(fd, 0, int(m.Size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	unix.Close(fd)
	session, err := engine.Load(context.Background(), file, inference.Options{})
	answer := loadedMessage{}
	if err != nil {
		answer.Status, answer.Cause = statusOf(err), clip(err.Error())
	} else {
		graph := session.Graph()
		answer.Graph = saidGraph{graph.Inputs, graph.Outputs}
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err == nil {
		answer.Peak = usage.Maxrss << 10
	}
	if err := unix.Munmap(file); err != nil {
		return err
	}
	runtime.GC()
	debug.FreeOSMemory()
	c.session = session
	if err := send(control, answer); err != nil {
		return err
	}
	if session == nil {
		os.Exit(0) // the server reads why from the socket, which outlives us
	}
	return nil
}

// yield makes the calling goroutine's thread give way to others. The thread
// ends with the goroutine, since nothing can make it quick again.
func yield() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
}

// run is one of the worker's threads: it takes runs until there are none, and
// sleeps.
func (c *child) run() {
	runtime.LockOSThread()
	t := thread{child: c, tid: uint32(unix.Gettid()), ctx: &slotContext{Context: context.Background()}}
	for {
		entry, ok := c.next()
		if !ok {
			t.tell()
			c.sleep()
			t.now = time.Time{}
			continue
		}
		if entry&returned != 0 {
			c.giveBack(entry)
			continue
		}
		if t.serve(entry) >= longRun {
			// The server may have made this thread give way to others for good.
			t.tell()
			go c.run()
			return
		}
	}
}

// longRun is when the server makes a thread yield.
const longRun = 250 * time.Millisecond

// next takes the first submission that is left.
func (c *child) next() (uint32, bool) {
	for {
		at := c.taken.Load()
		if at == c.submitted.Load() {
			return 0, false
		}
		entry := c.submissions[at%ringSize].Load()
		if c.taken.CompareAndSwap(at, at+1) {
			return entry, true
		}
	}
}

// sleep returns when the server woke a thread, or right away when there is
// something to do.
func (c *child) sleep() {
	value := c.wake.Load()
	c.sleepers.Add(1)
	if c.taken.Load() != c.submitted.Load() && takeOne(&c.sleepers) {
		return // nobody has woken this thread, and nobody will
	}
	for c.wake.Load() == value {
		wait(&c.wake, value)
	}
}

// thread is what one thread has to tell.
type thread struct {
	*child
	tid    uint32
	untold int
	since  time.Time     // of the first that is not told
	usual  time.Duration // how long runs take of late
	now    time.Time     // when the last run ended, if nothing came in between; the clock is read seldom
	ctx    *slotContext  // of the run
	call   callState
}

// tell wakes the server, if it sleeps, for what is completed.
func (t *thread) tell() {
	if t.untold == 0 {
		return
	}
	t.untold = 0
	if t.armed.Load() != 0 && t.armed.CompareAndSwap(1, 0) {
		// When the socket is full, the server has enough to read. It never blocks.
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, controlFD, uintptr(unsafe.Pointer(&ping)), 1)
	}
}

// ping is the byte that wakes the server.
var ping byte

// serve computes one run, and returns how long it took.
func (t *thread) serve(index uint32) time.Duration {
	s := &t.slots[index%slots]
	s.began.Store(t.tid)
	began := t.now
	if began.IsZero() {
		began = time.Now()
	}
	status, cause, values := t.compute(s)
	out, outputs, err := t.describe(values)
	if err != nil && status == statusDone {
		release(values)
		values = nil
		status, cause = statusOf(err), err.Error()
	}
	if status != statusDone {
		out, outputs = append(t.call.out[:0], clip(cause)...), 0
	}
	t.call.out = out
	if s.answer.place, err = t.put(s, out, &values); err != nil {
		status, outputs = statusOf(err), 0
	}
	t.now = time.Now()
	took := t.now.Sub(began)
	s.answer.status, s.answer.outputs = status, outputs
	s.answer.micros = uint32(min(took.Microseconds(), 1<<31))
	t.complete(index, values)
	if t.untold++; t.untold == 1 {
		t.since = t.now
	}
	// The next run is as short as the last ones, most likely.
	t.usual += (took - t.usual) / 8
	if t.taken.Load() == t.submitted.Load() || t.usual+t.now.Sub(t.since) >= batchFor {
		t.tell()
	}
	return took
}

// complete adds a slot to the completions, and keeps its outputs until they are
// given back or the slot is used again.
func (t *thread) complete(index uint32, values []inference.Value) {
	t.mu.Lock()
	old := t.answered[index%slots]
	t.answered[index%slots] = values
	t.rounds[index%slots]++
	at := t.completed.Load()
	t.completions[at%ringSize].Store(index)
	t.completed.Store(at + 1)
	t.mu.Unlock()
	release(old)
}

// giveBack frees the outputs of a slot, unless it was used again already.
func (c *child) giveBack(entry uint32) {
	index, round := entry%slots, entry>>slotBits&roundMask
	c.mu.Lock()
	var values []inference.Value
	if c.rounds[index]&roundMask == round {
		values, c.answered[index] = c.answered[index], nil
	}
	c.mu.Unlock()
	release(values)
}

func release(values []inference.Value) {
	for i := range values {
		values[i].Release()
	}
}

// callState is what a thread uses again for each run.
type callState struct {
	in     []inference.Tensor
	want   []int
	shapes []int64
	out    []byte
}

// compute reads the request and runs it.
func (t *thread) compute(s *slot) (status uint32, cause string, values []inference.Value) {
	request, ok := s.inline[:min(s.asked.Size, slotWords)], true
	if s.asked.At != 0 {
		request, ok = t.at(s.asked, headSize, headSize+t.room)
	}
	if !ok {
		return statusFailed, errOutside.Error(), nil
	}
	if err := t.read(request); err != nil {
		return statusFailed, err.Error(), nil
	}
	t.ctx.slot = s
	values, err := t.session.Run(t.ctx, t.call.in, t.call.want)
	if err != nil {
		release(values)
		return statusOf(err), err.Error(), nil
	}
	return statusDone, "", values
}

// read takes a request apart. It comes from the server, and is looked at all
// the same: a mistake should end a run, not the worker.
func (t *thread) read(request []byte) error {
	r := reader{rest: request}
	call := &t.call
	call.in, call.want, call.shapes = call.in[:0], call.want[:0], call.shapes[:0]
	for range r.u16() {
		typ, shape, p := r.tensor(&call.shapes)
		data, ok := t.at(p, headSize, headSize+t.room)
		if r.err != nil || !ok {
			return errors.Join(r.err, errOutside)
		}
		x := inference.Lent(typ, shape, data)
		if typ == models.String {
			n, _ := inference.Elements(shape)
			x = inference.Tensor{Type: typ, Shape: shape, Strings: make([]string, max(0, min(n, int64(len(data)/word))))}
			if err := unpack(string(data), x.Strings); err != nil {
				return err
			}
		}
		call.in = append(call.in, x)
	}
	for range r.u16() {
		call.want = append(call.want, r.u16())
	}
	return r.err
}

// describe writes values down; outputs is the bytes they lie in.
func (t *thread) describe(values []inference.Value) (out []byte, outputs uint64, err error) {
	d := describer{child: t.child, out: t.call.out[:0]}
	for i := range values {
		if err := d.value(&values[i]); err != nil {
			return d.out, 0, err
		}
	}
	return d.out, d.outputs, nil
}

// describer writes values down, as wire.go says.
type describer struct {
	*child
	out     []byte
	outputs uint64
}

func (d *describer) value(v *inference.Value) error {
	d.out = append(d.out, byte(v.Kind))
	switch v.Kind {
	case models.KindTensor:
		return d.tensor(&v.Tensor)
	case models.KindTensors:
		d.out = binary.LittleEndian.AppendUint32(d.out, uint32(len(v.Tensors)))
		for i := range v.Tensors {
			if err := d.tensor(&v.Tensors[i]); err != nil {
				return err
			}
		}
		return nil
	}
	d.out = binary.LittleEndian.AppendUint32(d.out, uint32(len(v.Maps)))
	for i := range v.Maps {
		if err := errors.Join(d.tensor(&v.Maps[i].Keys), d.tensor(&v.Maps[i].Values)); err != nil {
			return err
		}
	}
	return nil
}

// tensor writes one down. Strings are packed into the room first.
func (d *describer) tensor(x *inference.Tensor) error {
	data := x.Data
	if x.Type == models.String {
		packed, err := inference.NewTensor(d.memory, models.Uint8, []int64{int64(packedSize(x.Strings))})
		if err != nil {
			return err
		}
		pack(packed.Data, x.Strings)
		data = packed.Data
		shape := x.Shape
		x.Release()
		// The tensor holds the packed bytes from now on, to be released with it.
		*x = packed
		x.Type, x.Shape = models.String, shape
	}
	at, ok := d.find(data)
	if !ok {
		return errOutside
	}
	d.out = appendTensor(d.out, x, at, len(data))
	d.outputs += uint64(len(data))
	return nil
}

// put brings a description to where the server reads it: the slot, or a block
// of the room that is released with the values.
func (t *thread) put(s *slot, out []byte, values *[]inference.Value) (place, error) {
	if len(out) <= slotWords {
		copy(s.inline[:], out)
		return place{0, uint64(len(out))}, nil
	}
	x, err := inference.NewTensor(t.memory, models.Uint8, []int64{int64(len(out))})
	if err != nil {
		release(*values)
		*values = nil
		return place{}, err
	}
	copy(x.Data, out)
	at, _ := t.find(x.Data)
	*values = append(*values, inference.Value{Tensor: x})
	return place{at, uint64(len(out))}, nil
}

// slotContext ends when the server says so.
type slotContext struct {
	context.Context
	slot *slot
}

func (c *slotContext) Err() error {
	if c.slot.cancel.Load() != 0 {
		return context.Canceled
	}
	return nil
}

// statusOf turns an engine's error into a status.
func statusOf(err error) uint32 {
	switch {
	case errors.Is(err, context.Canceled):
		return statusEnded
	case errors.Is(err, inference.ErrNoMemory):
		return statusNoMemory
	case errors.Is(err, inference.ErrTooLarge):
		return statusTooLarge
	case errors.Is(err, inference.ErrUnavailable):
		return statusUnavailable
	}
	return statusFailed
}

// clip bounds the runtime's words.
func clip(s string) string { return s[:min(len(s), slotWords)] }
