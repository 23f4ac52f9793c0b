package models_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"testing"

	"modelgate/audit"
	"modelgate/models"
)

// TestSignedUploads: with keys, nothing is published that none of them signed,
// and who signed is recorded and remembered.
func TestSignedUploads(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := models.ParseUploadKeys(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	r := newRoomWith(t, func(c *models.Config) { c.UploadKeys = keys })
	iris := sample(t, "iris")
	sum := sha256.Sum256(iris)
	signature := ed25519.Sign(private, models.UploadMessage("iris", hex.EncodeToString(sum[:])))
	for what, refused := range map[string]struct {
		name string
		file []byte
		spec models.Spec
	}{
		"unsigned":         {"iris", iris, models.Spec{}},
		"of another file":  {"iris", variant(iris, 1), models.Spec{Signature: signature}},
		"for another name": {"stolen", iris, models.Spec{Signature: signature}},
	} {
		_, _, err := r.tryPublish(t, admin, refused.name, refused.file, refused.spec, neverTried(t))
		if rejected := (*models.Rejected)(nil); !errors.As(err, &rejected) || rejected.Code != "signature" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left := r.onDisk(t); len(left) > 0 {
		t.Errorf("on the disk: %v", left)
	}
	want := models.Fingerprint(public)
	if _, v := r.publish(t, ann, "iris", iris, models.Spec{Signature: signature}); v.Facts.SignedBy != want {
		t.Errorf("signed by %q", v.Facts.SignedBy)
	}
	if _, v := r.publish(t, admin, "sample", iris, models.Spec{Builtin: true}); v.Facts.SignedBy != "" {
		t.Errorf("the server's own sample: signed by %q", v.Facts.SignedBy)
	}
	page, err := r.log.Read(t.Context(), audit.Query{Action: "model.publish", Limit: 10})
	if err != nil || len(page.Items) != 2 || page.Items[1].Detail["signed_by"] != want || page.Items[0].Detail["signed_by"] != "" {
		t.Errorf("audited: %+v (%v)", page.Items, err)
	}
	r.reopen(t)
	access, err := r.catalog.Describe(t.Context(), ann, "iris")
	if err != nil || access.Version.Facts.SignedBy != want {
		t.Errorf("after a restart: signed by %q (%v)", access.Version.Facts.SignedBy, err)
	}
}
