package inference

// Memory hands out Buffers under one byte budget.
type Memory struct{}
