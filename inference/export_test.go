package inference

// NewService is New with a catalogue of the test's own, which it needs to
// retire, delay and break versions at will.
var NewService = newService

// Remembered is how many callers are refused, and how many versions have a
// record.
func (s *Service) Remembered() (callers, versions int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return len(s.pool.refused), len(s.pool.records)
}
