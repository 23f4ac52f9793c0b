package inference

// Buffer is a block of memory outside the Go heap, taken from a Memory and
// given back by Release.
type Buffer struct {
	bytes []byte
	mem   *Memory
}
