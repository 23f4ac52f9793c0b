// Package ort runs models by ONNX Runtime inside this process, as an
// inference.Engine. It is the only package with C code.
//
// It must not decide anything about callers, models' names or disclosure, and
// nothing of what the runtime says may get further than an Error's Cause.
//
// The library is loaded and set up through onnxruntime_go. Sessions and runs
// are this package's own (ortshim.c), since onnxruntime_go can't be made to: load
// a model once and still learn its inputs and outputs; give back outputs of
// rank 0, float16 or bfloat16 whose shapes aren't known beforehand; tell rank 0
// from a rank that isn't known; end a run without a goroutine that waits for
// it; silence the runtime's own log. A run crosses from Go to C twice, which
// costs 0.1 us, and allocates the values it returns, nothing else.
//
// What was chosen by measurement (1.30.0, 2 cores):
//   - One thread per run, no spinning: best throughput when as many runs go on
//     as there are cores.
//   - All sessions share one arena, which Config.MaxMemory bounds, so that a
//     model that asks for more fails and others go on. An arena for each is no
//     faster, and what one model's largest run took would stay its own.
//   - No memory patterns: the runtime keeps one for every combination of shapes
//     it ever saw. Without them small networks lose up to a tenth (7.9 against
//     7.1 us for a digit of 8 by 8), large ones nothing.
//   - Freed memory goes back to the system after each load: see tidy in ortshim.c.
//   - Outputs are copied: 30 ns for small ones, and their memory then counts for
//     the budget and lives as long as the answer, not the run.
//   - Integer divisions that trap on x86 (the smallest by -1) get the answer of
//     other processors: see fpe.c. Else a caller could end the process with two
//     numbers.
//   - A look every 10 ms at the contexts of running runs: see inference.Watcher.
package ort
