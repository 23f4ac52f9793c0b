package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What a provider's word is good for: whether it tells of a second factor, and
// what an access token lets its bearer do in the name of its user.

// factorFrom says where the second factor of somebody who proved himself is to be
// looked for.
type factorFrom uint8

const (
	factorHere    factorFrom = iota // at the account: he came by what he has here
	factorProved                    // he came by a provider that tells of one
	factorMissing                   // he came by a provider that tells of none
)

func (s *Session) factor() factorFrom {
	if s.Provider == "" {
		return factorHere
	}
	return factorOf(s.ProviderFactor)
}

func factorOf(proved bool) factorFrom {
	if proved {
		return factorProved
	}
	return factorMissing
}

// needsFactor says whether one of the roles needs a second factor.
func (s *Service) needsFactor(roles []string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(s.cfg.RequireTOTP, r) })
}

// tellsFactor says whether there is anything by which the provider could tell of a
// second factor.
func (p *Provider) tellsFactor() bool { return len(p.SecondFactorACR)+len(p.SecondFactorAMR) > 0 }

// secondFactor says whether a proved assertion tells of a second factor: by acr,
// which is one text, or by amr, a list of them (OpenID Connect Core section 2, RFC
// 9068 section 2.2.1). Where either is of another type nothing is told.
func (p *provider) secondFactor(a assertion) bool {
	acr, err := a.text("acr")
	if err != nil || a.has("amr") && a.members["amr"].Kind() != '[' {
		return false
	}
	amr, err := a.texts("amr")
	if err != nil {
		return false
	}
	return slices.Contains(p.SecondFactorACR, acr) || slices.ContainsFunc(amr, func(m string) bool { return slices.Contains(p.SecondFactorAMR, m) })
}

// delegationNames are what a scope can be mapped to, lowest bit first.
var delegationNames = append(slices.Clone(permissionNames[:]), "predict", "account")

// parseDelegation turns names such as "predict" or "models:write" into a set.
func parseDelegation(names []string) (given Permission, err error) {
	for _, n := range names {
		i := slices.Index(delegationNames, n)
		if i < 0 {
			return 0, fmt.Errorf("%q can't be delegated; there are %s", n, strings.Join(delegationNames, ", "))
		}
		given |= 1 << i
	}
	return given, nil
}

func notDelegated(need Permission) error {
	var names []string
	for i, n := range delegationNames {
		if need&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return ErrScope.With("your access token does not delegate " + strings.Join(names, ", ") + "; get one with a scope that does from your identity provider, or ask the operator (token_scopes)")
}

// errPart keeps a token from making what would have more rights than it.
var errPart = ErrScope.With("your access token delegates a part of your rights, so it makes and changes no credentials; sign in here instead (GET /console/oidc lists how, in a browser)")

// errDetails refuses what bounds a token in a way that is not understood here (RFC
// 9396): it can't be kept to.
var errDetails = ErrToken.With("the token has authorization_details, which are not taken here; get one without from your identity provider").
	Because(errors.New("authorization_details"))

// delegated is what an access token delegates: the union of what its scopes are
// mapped to, or Predict where nothing is mapped. Providers write scopes as one text
// with blanks (RFC 9068 section 2.2.3) or as a list, under scope or scp.
func (p *provider) delegated(a assertion) (Permission, error) {
	if a.has("authorization_details") {
		return 0, errDetails
	}
	var given Permission
	for _, name := range []string{"scope", "scp"} {
		texts, err := a.texts(name)
		if err != nil {
			return 0, errForeign.Because(err)
		}
		for _, text := range texts {
			for scope := range strings.SplitSeq(text, " ") {
				given |= p.scopes[scope]
			}
		}
	}
	if len(p.scopes) == 0 {
		return Predict, nil
	}
	return given, nil
}

// limit takes from the rights of a user what his token does not delegate.
func (w *Principal) limit(given Permission) {
	w.Withheld = (w.Permissions | Predict | Account) &^ given
	w.Permissions &= given
}

// checkRights checks second_factor and token_scopes.
func (p *Provider) checkRights(bad func(string, ...any)) {
	for _, word := range slices.Concat(p.SecondFactorACR, p.SecondFactorAMR) {
		if !scopeWord(word) {
			bad("second_factor: %q can't be a value of acr or amr; write lists of words", word)
		}
	}
	if len(p.TokenScopes) > 0 && !p.APITokens {
		bad("token_scopes has no effect without api_tokens: true")
	}
	for scope, names := range p.TokenScopes {
		if !scopeWord(scope) {
			bad("token_scopes: %q can't be a scope; write a word", scope)
		}
		if len(names) == 0 {
			bad("token_scopes: %q delegates nothing; name something or remove the line", scope)
		}
		if _, err := parseDelegation(names); err != nil {
			bad("token_scopes: %q: %w", scope, err)
		}
	}
}

// scopeWord says whether a text is a scope token (RFC 6749 section 3.3).
func scopeWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}
