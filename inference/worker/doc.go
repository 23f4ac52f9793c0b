// Package worker runs each model in a sandboxed process of its own, as an
// inference.Engine: a model that crashes, hangs, eats memory or tries to leave
// hurts nobody but itself, and the process that holds keys never maps a model
// runtime.
//
// It must not decide anything about callers or models, must not link a model
// runtime (the program gives Child one), and must not believe anything that a
// worker says: what a worker says may be the word of a stranger.
//
// A worker is the program itself, started again as a hidden subcommand (Child).
// It comes in two stages and ends up in a cage (cage.go), in which it gets the
// model. Server and worker share one piece of memory (layout.go): inputs are
// decoded into it and read there by the runtime without a copy, outputs are
// copied out of it before anything of them is looked at. Runs are handed over
// by two rings in it; who has nothing to do sleeps (a futex there, a byte on a
// socket here), and is woken once for all that has come meanwhile.
package worker
