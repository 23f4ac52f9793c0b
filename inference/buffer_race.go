//go:build race

package inference

// strict: see Buffer.
const strict = true
