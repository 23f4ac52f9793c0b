// Provider is a real OpenID Connect provider for the tests of modelgate: that of
// github.com/zitadel/oidc with its example's store, in a module of its own, so
// that modelgate itself needs none of it. It listens on loopback, prints its
// issuer, and ends when its standard input does.
//
// Its users ada (mail verified, group ml-users), grace (group ml-admins) and eve
// (mail not verified, who calls herself ada too) have the password "verysecure".
// Its access tokens are JWTs for the audience modelgate-api with the scope
// mg.account; its ID tokens tell of a password (amr).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const apiAudience = "modelgate-api"

func main() {
	redirect := flag.String("redirect", "", "the client's redirect_uri")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	issuer := "http://" + listener.Addr().String()
	client := storage.WebClient("browser-client", "the client's own secret", *redirect)
	store := &store{storage.NewStorageWithClients(users{}, map[string]*storage.Client{"browser-client": client})}
	handler := exampleop.SetupServer(issuer, store, slog.New(slog.NewTextHandler(os.Stderr, nil)), false)
	fmt.Println(issuer)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, handler))
}

// users are those of the example's kind, by name.
type users struct{}

var accounts = map[string]struct {
	user   storage.User
	groups []string
}{
	"ada":   {storage.User{ID: "100", Username: "ada", Password: "verysecure", Email: "ada@example.com", EmailVerified: true}, []string{"ml-users"}},
	"grace": {storage.User{ID: "200", Username: "grace", Password: "verysecure", Email: "grace@example.com", EmailVerified: true}, []string{"ml-admins"}},
	"eve":   {storage.User{ID: "300", Username: "eve", Password: "verysecure", Email: "ada@example.com"}, []string{"ml-users"}},
}

func (users) GetUserByUsername(name string) *storage.User {
	if a, ok := accounts[name]; ok {
		return &a.user
	}
	return nil
}

func (u users) GetUserByID(id string) *storage.User {
	for name, a := range accounts {
		if a.user.ID == id {
			return u.GetUserByUsername(name)
		}
	}
	return nil
}

func (users) ExampleClientID() string { return "service" }

// store adds groups to what tokens say, and makes access tokens JWTs for the API.
type store struct{ *storage.Storage }

type client struct{ op.Client }

func (client) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeJWT }
func (client) IDTokenUserinfoClaimsAssertion() bool { return true }

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c}, nil
}

type authRequest struct{ op.AuthRequest }

func (authRequest) GetAudience() []string { return []string{apiAudience} }

func (s *store) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := s.Storage.AuthRequestByCode(ctx, code)
	if err != nil {
		return nil, err
	}
	return authRequest{r}, nil
}

func (s *store) claims(userID string) map[string]any {
	for _, a := range accounts {
		if a.user.ID == userID {
			name := a.user.Username
			if name == "eve" {
				name = "ada"
			}
			return map[string]any{"groups": a.groups, "preferred_username": name}
		}
	}
	return nil
}

func (s *store) GetPrivateClaimsFromScopes(_ context.Context, userID, _ string, _ []string) (map[string]any, error) {
	claims := s.claims(userID)
	if claims != nil {
		claims["scope"] = "openid mg.account"
	}
	return claims, nil
}

func (s *store) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	if err := s.Storage.SetUserinfoFromRequest(ctx, info, r, scopes); err != nil {
		return err
	}
	claims := s.claims(r.GetSubject())
	info.AppendClaims("groups", claims["groups"])
	info.PreferredUsername, _ = claims["preferred_username"].(string)
	return nil
}
