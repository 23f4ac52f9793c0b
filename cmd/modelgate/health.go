package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"modelgate/client"
)

// HealthcheckCmd is what a container runs: there is no shell or curl in it.
type HealthcheckCmd struct {
	URL    string `placeholder:"URL" help:"The server. Default: the address of MODELGATE_LISTEN on this machine."`
	Listen string `hidden:"" env:"MODELGATE_LISTEN" default:"127.0.0.1:8080"`
	Cert   string `hidden:"" env:"MODELGATE_TLS_CERT"`
}

func (c *HealthcheckCmd) Run(ctx context.Context, s std) error {
	base := strings.TrimRight(c.URL, "/")
	probe := &http.Client{Timeout: 5 * time.Second}
	if base == "" {
		base = "http://" + localAddress(c.Listen)
		if c.Cert != "" {
			base = "https://" + localAddress(c.Listen)
			// The certificate names the public host, not this one; the question
			// is only whether our own server answers.
			probe.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		}
	}
	if _, err := client.New(base); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent())
	resp, err := probe.Do(req)
	if err != nil {
		return fmt.Errorf("can't reach %s: %w", base, transportReason(err))
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what can't be read says nothing
	if client.WantsHTTPS(resp.StatusCode, text) {
		return fmt.Errorf("%s speaks HTTPS; write its address with https://", base)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready (%s): it is stopping, or can't use its database, or is no modelgate server; its log says more", base, resp.Status)
	}
	return nil
}

// localAddress turns a listening address into one to connect to.
func localAddress(listen string) string {
	for _, all := range []string{"0.0.0.0:", "[::]:", ":"} {
		if port, ok := strings.CutPrefix(listen, all); ok {
			return "127.0.0.1:" + port
		}
	}
	return listen
}
