package api

import (
	"time"

	"modelgate/auth"
)

// What the sign-in and the OAuth routes answer.

type tokens struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"` // seconds
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"` // seconds
}

func tokensOf(t auth.Tokens) tokens {
	return tokens{t.Access, "Bearer", int64(t.AccessTTL / time.Second), t.Refresh, int64(t.RefreshTTL / time.Second)}
}

// accessToken is the answer to a client, which gets no refresh token.
type accessToken struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"` // seconds
}

type introspection struct {
	Active    bool     `json:"active"`
	Username  string   `json:"username,omitzero"`
	Subject   string   `json:"sub,omitzero"`
	ClientID  string   `json:"client_id,omitzero"`
	TokenType string   `json:"token_type,omitzero"`
	Kind      string   `json:"kind,omitzero"` // access_token, refresh_token, api_key
	Roles     []string `json:"roles,omitzero"`
	SessionID string   `json:"sid,omitzero"`
	Issuer    string   `json:"iss,omitzero"`
	IssuedAt  int64    `json:"iat,omitzero"`
	ExpiresAt int64    `json:"exp,omitzero"`
}

func introspectionOf(i auth.Introspection, issuer string) introspection {
	v := introspection{Active: true, Username: i.Username, Subject: i.Subject, ClientID: i.ClientID, Kind: i.Kind,
		Roles: i.Roles, SessionID: i.SessionID, Issuer: issuer}
	if i.Kind != "refresh_token" {
		v.TokenType = "Bearer"
	}
	if !i.IssuedAt.IsZero() {
		v.IssuedAt = i.IssuedAt.Unix()
	}
	if !i.ExpiresAt.IsZero() {
		v.ExpiresAt = i.ExpiresAt.Unix()
	}
	return v
}

// metadata is RFC 8414 section 2.
type metadata struct {
	Issuer                   string   `json:"issuer"`
	TokenEndpoint            string   `json:"token_endpoint"`
	JWKS                     string   `json:"jwks_uri,omitzero"`
	ResponseTypes            []string `json:"response_types_supported"` // none: there is no authorisation endpoint
	GrantTypes               []string `json:"grant_types_supported"`
	TokenAuthMethods         []string `json:"token_endpoint_auth_methods_supported"`
	RevocationEndpoint       string   `json:"revocation_endpoint"`
	RevocationAuthMethods    []string `json:"revocation_endpoint_auth_methods_supported"`
	IntrospectionEndpoint    string   `json:"introspection_endpoint"`
	IntrospectionAuthMethods []string `json:"introspection_endpoint_auth_methods_supported"`
	ServiceDocumentation     string   `json:"service_documentation"`
}
