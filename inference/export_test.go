package inference

// NewService is New with a catalogue of the test's own, which it needs to
// retire, delay and break versions at will.
var NewService = newService
