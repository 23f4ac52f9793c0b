package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Place says where the data is, for commands that work on it offline.
type Place struct {
	File        ConfigFile `name:"config" env:"MODELGATE_CONFIG" type:"path" placeholder:"FILE" help:"YAML file of settings, keyed by the flags' names."`
	Data        string     `env:"MODELGATE_DATA" default:"./data" type:"path" placeholder:"DIR" help:"The data folder. Default: ${default}."`
	DatabaseURL string     `env:"MODELGATE_DATABASE_URL" name:"database-url" placeholder:"URL" help:"Database, where it is not in the data folder."`
}

// DatabasePath is Config.DatabasePath for a folder that must be there already:
// a mistyped one would else be made and look empty.
func (p *Place) DatabasePath() string { return p.config().DatabasePath() }

func (p *Place) auditPath() string { return auditPath(p.Data) }

func (p *Place) auditKeyPath() string { return auditKeyPath(p.Data) }

func (p *Place) config() *Config { return &Config{Data: p.Data, DatabaseURL: p.DatabaseURL} }

// AfterApply refuses a folder that holds no database.
func (p *Place) AfterApply() error {
	if _, err := os.Stat(p.DatabasePath()); err != nil {
		return fmt.Errorf("no modelgate data in %s; name its folder with --data", p.Data)
	}
	return nil
}

// auditName is the file that the audit log is written to.
const auditName = "audit.log"

// The parts of a data folder.
func auditPath(data string) string     { return filepath.Join(data, auditName) }
func auditKeyPath(data string) string  { return filepath.Join(data, "keys", "audit.key") }
func keysPath(data string) string      { return filepath.Join(data, "keys") }
func masterKeyPath(data string) string { return filepath.Join(keysPath(data), "master.key") }
func modelsPath(data string) string    { return filepath.Join(data, "models") }
func protectedPath(data string) string { return filepath.Join(data, "protected.log") }
func lockPath(data string) string      { return filepath.Join(data, "lock") }

var errLocked = errors.New("another modelgate works on this data folder; stop it first, or name another --data")

// lockData makes the folder and keeps other processes from changing it until
// the returned file is closed or the process ends.
func lockData(data string) (*os.File, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("can't make the data folder %s: %w; name a folder that you may write to with --data", data, pathReason(err))
	}
	f, err := os.OpenFile(lockPath(data), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("can't write to the data folder %s: %w; name one that you may write to with --data", data, pathReason(err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return f, nil
}
