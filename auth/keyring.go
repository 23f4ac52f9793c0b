package auth

// Keyring holds the keys that sign access tokens.
type Keyring struct{}

func OpenKeyring(dir string, secret string) (*Keyring, error) { return &Keyring{}, nil }
