package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// proxies are the networks whose X-Forwarded-For is believed. None by default.
type proxies []netip.Prefix

func parseProxies(list []string) (proxies, error) {
	var p proxies
	for _, s := range list {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("%q is no address or network of a trusted proxy; write it as in 10.0.0.0/8", s)
			}
			prefix = netip.PrefixFrom(a, a.BitLen())
		}
		p = append(p, prefix.Masked())
	}
	return p, nil
}

// TrustedPeers reads networks as Config.TrustedProxies has them, and returns what
// tells whether an address is in one.
func TrustedPeers(list []string) (trusts func(netip.Addr) bool, err error) {
	p, err := parseProxies(list)
	return p.trusts, err
}

// HostNetwork is what one host can have: an IPv6 network of 64 bits, an IPv4 address.
func HostNetwork(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, min(a.BitLen(), 64)).Masked()
}

func (p proxies) trusts(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// maxHops bounds how much of a X-Forwarded-For is looked at.
const maxHops = 32

// client is the address of who sent the request, without port: the peer's, or,
// behind trusted proxies, the last address in X-Forwarded-For that no trusted
// proxy vouches for as one of its own. What the client itself put in front is
// never reached.
func (p proxies) client(r *http.Request) string {
	peer := withoutPort(r.RemoteAddr)
	if len(p) == 0 {
		return peer
	}
	at, err := parseHop(peer)
	if err != nil || !p.trusts(at) {
		return peer
	}
	lines := r.Header["X-Forwarded-For"]
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for rest != "" {
			hop := rest
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				rest = ""
			}
			a, err := parseHop(strings.TrimSpace(hop))
			if hops++; err != nil || hops > maxHops {
				return at.String()
			}
			if at = a; !p.trusts(a) {
				return at.String()
			}
		}
	}
	return at.String()
}

// parseHop reads an address with or without port.
func parseHop(s string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone(""), nil
	}
	ap, err := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone(""), err
}

// withoutPort cuts "127.0.0.1:4711" and "[::1]:4711". It allocates nothing.
func withoutPort(s string) string {
	if colon := strings.LastIndexByte(s, ':'); colon >= 0 {
		s = s[:colon]
	}
	if len(s) >= 2 && s[0] == '[' && s[len(s)-1] == ']' {
		s = s[1 : len(s)-1]
	}
	return s
}
