package store

import (
	"context"
	"time"

	"modelgate/auth"
)

// PutTicket implements auth.Store.
func (db *DB) PutTicket(ctx context.Context, ticket auth.Ticket) error {
	return authError(db.write(ctx, func(t *tx) error { return t.putTicket(ticket) }))
}

func (t *tx) putTicket(k auth.Ticket) error {
	if err := t.voidTickets(k.UserID); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO tickets (hash, kind, user_id, expires_at, drops_totp) VALUES (?, ?, ?, ?, ?)`,
		k.Hash[:], string(k.Kind), k.UserID, micros(k.ExpiresAt), k.DropsTOTP)
	return taken(err)
}

// voidTickets removes all tickets of a user, of whatever kind.
func (t *tx) voidTickets(userID string) error {
	_, err := t.exec(`DELETE FROM tickets WHERE user_id = ?`, userID)
	return err
}

// Redeem implements auth.Store.
func (db *DB) Redeem(ctx context.Context, hash [32]byte, kind auth.TicketKind, now time.Time,
	f func(auth.User) (auth.User, error)) (auth.User, error) {
	var stored auth.User
	err := db.write(ctx, func(t *tx) error {
		// Whoever removes the ticket has it; a rollback puts it back.
		var userID string
		var dropsTOTP bool
		err := t.row(func(s scan) error { return s(&userID, &dropsTOTP) },
			`DELETE FROM tickets WHERE hash = ? AND kind = ? AND expires_at > ? RETURNING user_id, drops_totp`,
			hash[:], string(kind), micros(now))
		if err == errAbsent {
			return auth.ErrToken
		}
		if err != nil {
			return err
		}
		old, err := t.user(`WHERE u.id = ?`, userID)
		if err != nil {
			return err
		}
		if dropsTOTP {
			if err := t.putTOTP(userID, auth.TOTP{}); err != nil {
				return err
			}
		}
		stored, err = t.replaceUser(old, f)
		return err
	})
	if err != nil {
		return auth.User{}, authError(err)
	}
	return stored, nil
}
