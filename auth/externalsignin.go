package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	signInPrefix = "mgo_"
	signInTTL    = 10 * time.Minute
	maxCode      = 4 << 10
	maxSignIns   = 50_000 // under way at once, whoever began them
)

var (
	errNoProvider = ErrNotFound.With("there is no identity provider of that name for signing in")
	errSignIn     = ErrForbidden.With("the sign-in through the identity provider did not succeed; start it again")
	errOtherState = ErrForbidden.With("this is not the answer to a sign-in that this browser began, or it came twice or after ten minutes; start again")
	// errTooOld is for who only meant to prove himself anew.
	errTooOld = ErrReauthenticate.With("the identity provider does not say that you have signed in to it just now; start again")
)

// SignInProviders lists the names of the providers through which people sign
// in.
func (s *Service) SignInProviders() []string {
	names := []string{}
	for _, p := range s.providers.list {
		if p.SignIn {
			names = append(names, p.Name)
		}
	}
	return names
}

// ExternalAnswer is what a provider sends back by the browser (RFC 6749 section
// 4.1.2, RFC 9207). All of it may be forged.
type ExternalAnswer struct {
	Code   string
	State  string
	Issuer string // iss
	Error  string // error
}

// BeginExternal begins a sign-in through a provider (authorization code with
// PKCE, state and nonce). The browser goes to address; secret is for it alone,
// for ten minutes, and is to be shown to FinishExternal. fresh asks the provider
// to have the user prove himself anew. cookie is that of the session which the
// browser has already, if it has one, and which ends when the sign-in succeeds.
// ErrNotFound for a provider that there is not, ErrUnavailable when it can't be
// asked, or too many sign-ins are under way.
func (s *Service) BeginExternal(ctx context.Context, provider string, fresh bool, cookie string) (address, secret string, err error) {
	p := s.providers.named(provider)
	if p == nil {
		return "", "", errNoProvider
	}
	facts, err := p.source.facts(ctx)
	if err != nil {
		return "", "", err
	}
	// Remembered here: the cookie is Strict, and does not come back with the answer.
	session, err := s.ofCookie(ctx, cookie)
	if err != nil {
		return "", "", err
	}
	secret, hash := newSecret(signInPrefix)
	now := s.now()
	in := SignIn{Hash: hash, Provider: p.Name, Fresh: fresh, SessionID: session.ID, ExpiresAt: now.Add(signInTTL)}
	if err := s.cfg.Store.CreateSignIn(ctx, in, now, s.maxSignIns); err != nil {
		return "", "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(derive(secret, "nonce")), oauth2.S256ChallengeOption(derive(secret, "verifier"))}
	if fresh {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	if len(p.SecondFactorACR) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(p.SecondFactorACR, " ")))
	}
	return s.oauth(p, facts).AuthCodeURL(derive(secret, "state"), options...), secret, nil
}

// derive makes a value that nobody knows who has not the browser's secret: so
// state, nonce and PKCE verifier belong to one browser and one sign-in, and
// need not be stored.
func derive(secret, purpose string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(purpose))
	return b64(mac.Sum(nil))
}

func (s *Service) oauth(p *provider, f *providerFacts) *oauth2.Config {
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: f.endpoint, Scopes: p.Scopes,
		// Another address for each provider, so that an answer can't be taken for
		// that of another (RFC 9700 section 4.4.2.2); none of it from the request.
		RedirectURL: strings.TrimRight(s.cfg.Issuer, "/") + "/console/oidc/" + p.Name + "/callback",
	}
}

// FinishExternal ends a sign-in through a provider with what came back by the
// browser, and begins the session of a browser like BeginBrowser. What step-up
// looks at is when the user proved himself to the provider, if it tells. The
// session from which the browser began ends; where a proof anew was asked for it
// has to be of the same user, and the one ends as the other begins.
// ErrForbidden when the answer proves nothing, belongs to another browser, or
// names somebody who is not let in, or not the user of that session;
// ErrReauthenticate when a proof anew was asked for and not given;
// ErrSecondFactor when the user needs one, and the provider tells of none.
func (s *Service) FinishExternal(ctx context.Context, o Origin, userAgent, provider, secret string, answer ExternalAnswer, replaced string) (Browser, error) {
	p := s.providers.named(provider)
	if p == nil {
		return Browser{}, errNoProvider
	}
	attempt := signIn{origin: o, action: "user.login", detail: map[string]string{"provider": p.Name}}
	a, begun, err := s.externalAssertion(ctx, p, secret, answer)
	if told := (*Error)(nil); errors.As(err, &told) {
		if !told.Is(ErrUnavailable) {
			err = s.failed(ctx, attempt, "sign_in", err)
		}
		return Browser{}, err
	}
	if err != nil {
		return Browser{}, s.failed(ctx, attempt, "token", errSignIn.Because(fmt.Errorf("sign-in through %s: %w", p.Name, err)))
	}
	attempt.detail["subject"] = a.subject
	proved, err := s.proveExternal(ctx, p, a, begun, attempt)
	if err != nil {
		return Browser{}, err
	}
	if !begun.Fresh {
		old, err := s.beganFrom(ctx, begun)
		if err == nil {
			err = s.endReplaced(ctx, o, old)
		}
		if err != nil {
			return Browser{}, err
		}
	}
	return s.beginBrowser(ctx, proved, userAgent, replaced)
}

// beganFrom finds the session from which a sign-in began; the zero Session where
// there was none, or it has ended.
func (s *Service) beganFrom(ctx context.Context, begun SignIn) (Session, error) {
	if begun.SessionID == "" {
		return Session{}, nil
	}
	session, err := s.cfg.Store.Session(ctx, begun.SessionID)
	if errors.Is(err, ErrNotFound) {
		return Session{}, nil
	}
	return session, err
}

var (
	errSessionOver = &inadmissible{"session_ended", "the session that you wanted to prove anew has ended; sign in again"}
	errOtherUser   = &inadmissible{"other_user", "the identity provider says that you are somebody else than whose session this is; choose the same account there, or sign out here first"}
)

// replacing returns the session in whose place one comes that proves its user
// anew; empty where the browser had none. An *inadmissible for anybody else.
func (s *Service) replacing(ctx context.Context, begun SignIn, user User) (string, error) {
	if !begun.Fresh || begun.SessionID == "" {
		return "", nil
	}
	session, err := s.beganFrom(ctx, begun)
	switch {
	case err != nil:
		return "", err
	case session.ID == "":
		return "", errSessionOver
	case session.UserID != user.ID:
		return "", errOtherUser
	}
	return session.ID, nil
}

// proveExternal finds the user of an assertion, and records that he is proved.
func (s *Service) proveExternal(ctx context.Context, p *provider, a assertion, begun SignIn, attempt signIn) (proof, error) {
	user, err := s.admit(ctx, attempt.origin, p, a)
	attempt.user, attempt.username = user, user.Username
	if err == nil && user.Disabled {
		err = errGone
	}
	replaces := ""
	if err == nil {
		replaces, err = s.replacing(ctx, begun, user)
	}
	if refused := (*inadmissible)(nil); errors.As(err, &refused) {
		return proof{}, s.failed(ctx, attempt, refused.reason, ErrForbidden.With(refused.detail).Because(refused))
	}
	if err != nil {
		return proof{}, err
	}
	strong := p.secondFactor(a)
	if !strong && s.needsFactor(user.Roles) {
		return proof{}, s.failed(ctx, attempt, "no_second_factor", ErrSecondFactor)
	}
	if err := s.succeeded(ctx, attempt); err != nil {
		return proof{}, err
	}
	authTime := time.Unix(0, 0).UTC() // long ago, if the provider does not tell
	if !a.authTime.IsZero() {
		authTime = a.authTime
	}
	if now := s.now(); authTime.After(now) {
		authTime = now
	}
	return proof{attempt: attempt, user: user, authTime: authTime, replaces: replaces, provider: p.Name, factor: strong, still: func(ctx context.Context, now User) (bool, error) {
		linked, _, err := s.cfg.Store.UserByIdentity(ctx, a.issuer, a.subject)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		return linked.ID == now.ID, err
	}}, nil
}

// externalAssertion gets what the provider says of whoever comes back from it,
// and how his sign-in began.
// *Error is for the caller; any other error means that the provider's answer
// proves nothing.
func (s *Service) externalAssertion(ctx context.Context, p *provider, secret string, answer ExternalAnswer) (assertion, SignIn, error) {
	hash, ok := secretHash(signInPrefix, secret)
	if !ok || subtle.ConstantTimeCompare([]byte(answer.State), []byte(derive(secret, "state"))) != 1 {
		return assertion{}, SignIn{}, errOtherState.Because(errors.New("the state is not this browser's"))
	}
	begun, err := s.cfg.Store.TakeSignIn(ctx, hash, s.now()) // from here on the answer can't come again
	if errors.Is(err, ErrNotFound) || err == nil && begun.Provider != p.Name {
		return assertion{}, SignIn{}, errOtherState.Because(errors.New("the sign-in is over, or was begun with another provider"))
	}
	if err != nil {
		return assertion{}, SignIn{}, err
	}
	facts, err := p.source.facts(ctx)
	if err != nil {
		return assertion{}, SignIn{}, err
	}
	switch {
	case answer.Issuer != p.Issuer && (facts.sendsIss || answer.Issuer != ""):
		return assertion{}, SignIn{}, errors.New("the answer is of another issuer (RFC 9207)")
	case answer.Error != "":
		return assertion{}, SignIn{}, fmt.Errorf("the provider answers %q", cut(answer.Error, 64))
	case answer.Code == "" || len(answer.Code) > maxCode:
		return assertion{}, SignIn{}, errors.New("the answer has no code, or one that is too long")
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.source.client), 2*providerTimeout)
	defer cancel()
	tokens, err := s.oauth(p, facts).Exchange(ctx, answer.Code, oauth2.VerifierOption(derive(secret, "verifier")))
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < 500 {
		return assertion{}, SignIn{}, fmt.Errorf("the code was not taken: status %d, %q", refused.Response.StatusCode, cut(refused.ErrorCode, 64))
	}
	if err != nil {
		return assertion{}, SignIn{}, errProviderOut.Because(fmt.Errorf("token endpoint of %s: %w", p.Name, bare(err)))
	}
	a, err := p.idToken(ctx, facts, tokens, derive(secret, "nonce"))
	if err != nil {
		return assertion{}, SignIn{}, err
	}
	if began := begun.ExpiresAt.Add(-signInTTL); begun.Fresh && a.authTime.Before(began.Add(-leeway)) {
		return assertion{}, SignIn{}, errTooOld
	}
	return a, begun, nil
}

// bare takes the provider's body out of an error: it may hold tokens.
func bare(err error) error {
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) && refused.Response != nil {
		return fmt.Errorf("status %d", refused.Response.StatusCode)
	}
	return err
}

// idToken proves the ID token that came with a code (OpenID Connect Core section
// 3.1.3.7).
func (p *provider) idToken(ctx context.Context, f *providerFacts, tokens *oauth2.Token, nonce string) (assertion, error) {
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return assertion{}, errors.New("the provider gave no ID token; is openid among the scopes of the client?")
	}
	h, err := readForeignHeader(raw, maxIDToken)
	if err != nil {
		return assertion{}, fmt.Errorf("ID token: %w", err)
	}
	if t := strings.ToLower(h.Type); t != "" && t != "jwt" {
		return assertion{}, errors.New("ID token: its typ says that it is none")
	}
	algorithms := p.Algorithms
	if f.algorithms != nil {
		algorithms = slices.DeleteFunc(slices.Clone(algorithms), func(a string) bool { return !slices.Contains(f.algorithms, a) })
	}
	a, err := p.verify(ctx, raw, h, p.ClientID, algorithms)
	if err != nil {
		return assertion{}, err
	}
	said, err := a.text("nonce")
	if err != nil || subtle.ConstantTimeCompare([]byte(said), []byte(nonce)) != 1 {
		return assertion{}, errors.New("ID token: the nonce is not that of this sign-in")
	}
	party, err := a.text("azp")
	if err != nil || party != p.ClientID && (party != "" || len(a.audience) > 1) {
		return assertion{}, errors.New("ID token: made for another client (azp)")
	}
	if a.has("at_hash") {
		if err := a.token.VerifyAccessToken(tokens.AccessToken); err != nil {
			return assertion{}, fmt.Errorf("ID token: %w", err)
		}
	}
	return a, nil
}
