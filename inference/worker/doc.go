// Package worker runs models in processes of their own, each in a cage.
package worker
