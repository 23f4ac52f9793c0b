package api

import (
	"strings"
	"testing"

	"modelgate/inference"
)

// TestShares: one user's bodies fill nobody else's memory, however small each
// of them is, and all of it comes back.
func TestShares(t *testing.T) {
	memory := inference.NewMemory(4 << 20)
	all := &shares{most: 1 << 20, held: map[string]int64{}}
	of := func(user string) *body { return &body{memory: memory, shares: all, user: user, streamed: true} }
	for _, size := range []int64{8 << 10, firstRead, 256 << 10} {
		var held []*body
		for {
			b := of("mallory")
			if err := b.grow(t.Context(), size); err != nil {
				if words := refuse(err).detail; !strings.Contains(words, "of yours") {
					t.Errorf("bodies of %d bytes fill all memory: %s", size, words)
				}
				break
			}
			held = append(held, b)
		}
		ada := of("ada")
		if err := ada.grow(t.Context(), size); err != nil {
			t.Errorf("beside %d bodies of %d bytes: %v", len(held), size, err)
		}
		ada.release()
		for _, b := range held {
			b.release()
		}
		if n := memory.InUse(); n != 0 || len(all.held) != 0 {
			t.Errorf("%d bytes and %d shares are left", n, len(all.held))
		}
	}
}
