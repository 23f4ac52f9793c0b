//go:build !unix

package auth

import "errors"

// lockDir has no lock here: what a killed start left stays.
func lockDir(string, bool) (unlock func(), err error) { return nil, errors.ErrUnsupported }
