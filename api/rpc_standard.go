package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"modelgate/api/oipgrpc"
	"modelgate/auth"
)

// The standard gRPC services: health, which asks for no credentials and tells
// what GET /readyz tells, and reflection, which is for operators.

const (
	maxWatchers = 64              // of health at once; they show no credentials
	watchEvery  = time.Second     // how often readiness is looked at for them
	watchLife   = 1 * time.Hour   // after which a watcher has to ask again
	reflections = 64              // requests on one stream of reflection
	reflectIdle = 1 * time.Minute // between two of them
)

func (s *Server) standardTable() []*route {
	reflection := func(service string) *route {
		return allowed(http.MethodPost, "/"+service+"/ServerReflectionInfo", auth.MetricsRead, "reflection.read", 200, s.rpcReflection)
	}
	return []*route{
		open(http.MethodPost, "/"+oipgrpc.HealthService+"/Check", 200, noRate, s.rpcHealth),
		open(http.MethodPost, "/"+oipgrpc.HealthService+"/Watch", 200, noRate, s.rpcWatch),
		reflection(oipgrpc.ReflectionService),
		reflection(oipgrpc.ReflectionServiceAlpha),
	}
}

// healthOf is the state of a service that exists.
func (s *Server) healthOf(c *call, service string) (int, bool) {
	if service != "" && service != oipgrpc.InferenceService {
		return oipgrpc.ServiceUnknown, false
	}
	if _, err := s.readiness(c); err != nil || s.rpcs.closing.Err() != nil {
		return oipgrpc.NotServing, true
	}
	return oipgrpc.Serving, true
}

// askedHealth reads which service a call of health is about.
func (c *call) askedHealth() (string, error) {
	message, err := c.readPublic()
	if err != nil {
		return "", err
	}
	service, ok := oipgrpc.HealthRequest(message)
	if !ok {
		return "", invalid("the message is no HealthCheckRequest")
	}
	return service, nil
}

func (s *Server) rpcHealth(c *call) error {
	service, err := c.askedHealth()
	if err != nil {
		return err
	}
	status, known := s.healthOf(c, service)
	if !known {
		return &fault{code: "not_found", detail: "there is no such service here"}
	}
	c.begin()
	c.send(oipgrpc.AppendHealth(make([]byte, oipgrpc.PrefixSize, oipgrpc.PrefixSize+2), status), false)
	c.succeed()
	return nil
}

// rpcWatch tells of every change until the client leaves.
func (s *Server) rpcWatch(c *call) error {
	if s.rpcs.watchers.Add(1) > maxWatchers {
		s.rpcs.watchers.Add(-1)
		// Clients take other codes for a server that is down, and would call
		// nothing any more because strangers watch; this one turns their watch off.
		return &fault{code: "unimplemented", detail: "too many watch the health of this server; call Check instead"}
	}
	defer s.rpcs.watchers.Add(-1)
	service, err := c.askedHealth()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), watchLife)
	defer cancel()
	c.begin()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for last := -1; ; {
		if status, _ := s.healthOf(c, service); status != last {
			last = status
			c.send(oipgrpc.AppendHealth(make([]byte, oipgrpc.PrefixSize, oipgrpc.PrefixSize+2), status), false)
			c.flush()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.rpcs.closing.Done():
			if last != oipgrpc.ServiceUnknown && last != oipgrpc.NotServing {
				c.send(oipgrpc.AppendHealth(make([]byte, oipgrpc.PrefixSize, oipgrpc.PrefixSize+2), oipgrpc.NotServing), false)
			}
			return errClosing
		}
	}
}

// rpcReflection answers a few questions about what is described here. Its
// stream is short: whose token is revoked learns nothing anew on an old one.
func (s *Server) rpcReflection(c *call) error {
	c.writeUntil(time.Now().Add(s.writeGrace))
	c.begin()
	c.flush()
	for range reflections {
		p, err := c.nextPrefix(reflectIdle)
		if err == io.EOF {
			c.succeed()
			return nil
		}
		if err != nil {
			return err
		}
		b, _, err := c.readMessage(p, smallBody)
		if err != nil {
			return err
		}
		answer, ok := oipgrpc.Reflect(b.data)
		b.release()
		if !ok {
			return invalid("the message is no ServerReflectionRequest")
		}
		c.send(append(make([]byte, oipgrpc.PrefixSize, oipgrpc.PrefixSize+len(answer)), answer...), false)
		c.flush()
	}
	return &fault{code: "rate_limited", detail: "too many questions on one stream; open another"}
}
