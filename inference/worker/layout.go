package worker

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// The memory that server and worker share, one memfd of a sealed size: what
// is said (shared), then the room that inputs lie in, then the room that
// outputs lie in. The server trusts none of it: what it needs, it reads once,
// into memory of its own, and then looks at it.
const (
	slots     = 1 << slotBits // runs that a worker can hold
	ringSize  = 2 * slots     // a slot is in a ring at most twice: its run, and its return
	slotWords = 960           // bytes of a slot for descriptions that fit; longer ones lie in the rooms
)

// shared is the head of the shared memory. Both sides use it at the same time,
// word by word.
type shared struct {
	// submitted counts what the server has put into submissions.
	submitted atomic.Uint32
	_         [60]byte
	// sleepers is how many threads of the worker sleep, or are about to; who
	// wakes one takes it off. wake is the word they sleep on.
	sleepers atomic.Uint32
	wake     atomic.Uint32
	taken    atomic.Uint32 // of submissions, by the worker
	_        [52]byte
	// completed counts what the worker has put into completions.
	completed atomic.Uint32
	// armed is set when the server sleeps until an event; who writes that event
	// clears it.
	armed atomic.Uint32
	_     [56]byte

	submissions [ringSize]atomic.Uint32 // slots, or returned|slot
	completions [ringSize]atomic.Uint32 // slots
	slots       [slots]slot
}

// returned marks a submission that gives the outputs of a slot back. Above
// the slot it has how many runs of the slot there were so far, so that two
// threads can't take it for another's.
const (
	returned  = 1 << 31
	slotBits  = 10
	roundMask = 1<<(31-slotBits) - 1
)

// slot is one run: what is asked, and what is answered.
type slot struct {
	cancel atomic.Uint32 // set by the server: the run is to end
	began  atomic.Uint32 // set by the worker when it takes up the run
	asked  place         // where the request lies
	answer answer
	inline [slotWords]byte
}

// place is where something lies in the shared memory. In inline when At is 0.
type place struct {
	At, Size uint64
}

// answer is what the worker says of a run.
type answer struct {
	place
	status  uint32
	micros  uint32 // how long it took
	outputs uint64 // bytes that wait to be given back
}

// What became of a run.
const (
	statusDone = iota
	statusFailed
	statusTooLarge
	statusNoMemory
	statusUnavailable
	statusEnded
)

// headSize is where the rooms begin.
const headSize = (int(unsafe.Sizeof(shared{})) + pageMask) &^ pageMask

// pageMask is for the largest pages there are.
const pageMask = 1<<16 - 1

// arena is the shared memory as one side maps it.
type arena struct {
	mapping []byte
	*shared
	room int // bytes of each of the two rooms
}

func arenaSize(room int) int { return headSize + 2*room }

// arenaOf makes a mapping an arena.
func arenaOf(mapping []byte) (arena, error) {
	rest := len(mapping) - headSize
	if rest < 0 || rest%2 != 0 || rest/2&pageMask != 0 {
		return arena{}, fmt.Errorf("worker: shared memory of %d bytes can't be divided", len(mapping))
	}
	return arena{mapping: mapping, shared: (*shared)(unsafe.Pointer(unsafe.SliceData(mapping))), room: rest / 2}, nil
}

func (a *arena) inputs() []byte  { return a.mapping[headSize : headSize+a.room : headSize+a.room] }
func (a *arena) outputs() []byte { return a.mapping[headSize+a.room:] }

// find tells where data lies in the shared memory; false: elsewhere.
func (a *arena) find(data []byte) (at uint64, ok bool) {
	if len(data) == 0 {
		return 0, true
	}
	from := uintptr(unsafe.Pointer(unsafe.SliceData(a.mapping)))
	p := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	if p < from || p-from > uintptr(len(a.mapping)-len(data)) {
		return 0, false
	}
	return uint64(p - from), true
}

// at returns what lies at a place; false when that is not within from and to.
func (a *arena) at(p place, from, to int) ([]byte, bool) {
	if p.Size == 0 {
		return nil, true
	}
	if p.At < uint64(from) || p.At > uint64(to) || p.Size > uint64(to)-p.At {
		return nil, false
	}
	return a.mapping[p.At : p.At+p.Size : p.At+p.Size], true
}
