package api

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"modelgate/api/oipgrpc/pb"
)

// atNoon sets the clock of the world's rooms to noon UTC.
func (w *world) atNoon() {
	w.clock.at.Store(time.Now().UTC().Truncate(24 * time.Hour).Add(36 * time.Hour).UnixNano())
}

// exhausted checks a refusal by a budget at noon.
func (a answer) exhausted(part string) {
	a.t.Helper()
	detail := a.refused(429, "budget_exhausted")
	if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait > 12*3600 || wait < 12*3600-300 {
		a.t.Errorf("%s: Retry-After %q at noon", a.what, a.Header.Get("Retry-After"))
	}
	if !strings.Contains(detail, part) {
		a.t.Errorf("%s: %q does not say %q", a.what, detail, part)
	}
}

// TestDailyRows is row P2 over all three ways in: a user's rows of a day are
// bounded over all models by his roles, and of a model by its disclosure,
// whatever credential he uses; nothing runs that is over it.
func TestDailyRows(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.atNoon()
	w.admin = w.login("admin", adminPassword)
	w.iris()
	put := func(body string) {
		w.do(request{method: "PUT", path: "/admin/roles/metered", token: w.admin, json: body}).is(200)
	}
	put(`{"daily_rows":20}`)
	_, ada := w.user("ada", "metered")
	key := w.post("/users/me/keys", ada, map[string]string{"name": "k"}).is(201).field("key")

	w.post("/predict", ada, rows(5)).is(200)
	w.post("/predict", key, rows(5)).is(200)
	w.post("/v2/models/iris/infer", ada, inferRows(4)).is(200)
	var out pb.ModelInferResponse
	two := typedRequest("iris", "X", "FP32", []int64{2, 4}, &pb.InferTensorContents{Fp32Contents: make([]float32, 8)})
	w.call(as(ada), "ModelInfer", two, &out).ok()

	runs := w.fake.Stats().Runs
	w.post("/predict", ada, rows(5)).exhausted("4 rows are left today")
	w.post("/predict", key, rows(21)).refused(413, "too_many_rows")
	refusal := w.post("/v2/models/iris/infer", key, inferRows(5))
	refusal.oipRefused(429)
	if refusal.Header.Get("Retry-After") == "" {
		t.Error("429 under /v2 without Retry-After")
	}
	five := typedRequest("iris", "X", "FP32", []int64{5, 4}, &pb.InferTensorContents{Fp32Contents: make([]float32, 20)})
	w.call(as(ada), "ModelInfer", five, &out).refused(codes.ResourceExhausted, "left today of your budget")
	s, err := w.conn.NewStream(as(ada), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method("ModelStreamInfer"))
	if err != nil {
		t.Fatal(err)
	}
	for i, in := range []*pb.ModelInferRequest{five, two, five} {
		var out pb.ModelStreamInferResponse
		if err := s.SendMsg(in); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&out); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.ErrorMessage, "budget") != (i != 1) {
			t.Errorf("message %d of a stream: %q", i, out.ErrorMessage)
		}
	}
	if n := w.fake.Stats().Runs; n != runs+1 {
		t.Errorf("%d runs where one prediction was within the budget", n-runs)
	}
	w.post("/predict", w.admin, rows(50)).is(200) // who has no budget
	put(`{"daily_rows":21}`)
	w.post("/predict", ada, rows(3)).is(200) // 18 of 21
	w.post("/predict", ada, irisRow).exhausted("is used up")
	w.clock.advance(12 * time.Hour)
	ada = w.login("ada", userPassword)
	w.post("/predict", ada, rows(20)).is(200)
}

// inferRows is an infer request with n rows.
func inferRows(n int) string {
	row := "[5.1,3.5,1.4,0.2]"
	return fmt.Sprintf(`{"inputs":[{"name":"X","datatype":"FP32","shape":[%d,4],"data":[%s%s]}]}`, n, strings.Repeat(row+",", n-1), row)
}

// TestDailyRowsOfModel: the smallest of the model's own budget and those of the
// caller's roles holds, for owners and administrators too, and each sees his.
func TestDailyRowsOfModel(t *testing.T) {
	w := newWorld(t, noLimits)
	w.atNoon()
	w.admin = w.login("admin", adminPassword)
	w.iris()
	w.role("partner")
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin,
		json: `{"disclosure":{"daily_rows":10,"roles":{"partner":{"daily_rows":4},"admin":{"decimals":2}}}}`}).is(200)
	_, ada := w.user("ada")
	_, eve := w.user("eve", "partner")
	for _, test := range []struct {
		token string
		limit int
	}{{ada, 10}, {eve, 4}, {w.admin, 10}} {
		var view struct {
			DailyRows int `json:"daily_rows"`
		}
		w.get("/models/iris", test.token).is(200).decode(&view)
		if view.DailyRows != test.limit {
			t.Errorf("the model shows a budget of %d rows, want %d", view.DailyRows, test.limit)
		}
		w.post("/predict", test.token, rows(test.limit+1)).refused(413, "too_many_rows")
		w.post("/predict", test.token, rows(test.limit-1)).is(200)
		w.post("/predict", test.token, rows(2)).exhausted("for the model iris")
		var me struct {
			Budgets []budget `json:"budgets"`
		}
		w.get("/users/me", test.token).is(200).decode(&me)
		if want := []budget{{Model: "iris", DailyRows: int64(test.limit), Left: 1}}; fmt.Sprint(me.Budgets) != fmt.Sprint(want) {
			t.Errorf("GET /users/me: %v, want %v", me.Budgets, want)
		}
	}
	// A model that is closed to him now tells him nothing.
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"roles":[]}`}).is(200)
	if got := string(w.get("/users/me", ada).is(200).Body); strings.Contains(got, "iris") {
		t.Errorf("of a closed model: %s", got)
	}
	for _, body := range []string{`{"daily_rows":0}`, `{"daily_rows":-1}`, `{"daily_rows":1000000000001}`, `{"daily_rows":1.5}`, `{"daily_rows":"5"}`} {
		w.do(request{method: "PUT", path: "/admin/roles/partner", token: w.admin, json: body}).refused(400, "invalid_input")
	}
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"disclosure":{"daily_rows":-1}}`}).refused(400, "invalid_input")
}

// TestDailyRowsCharged: as with rates, what was let in and read is charged
// though it fails later, and what never got so far is not.
func TestDailyRowsCharged(t *testing.T) {
	w := newWorld(t, noLimits)
	w.atNoon()
	w.admin = w.login("admin", adminPassword)
	w.iris()
	w.do(request{method: "PUT", path: "/admin/roles/metered", token: w.admin, json: `{"daily_rows":10}`}).is(200)
	_, ada := w.user("ada", "metered")
	left := func() int64 {
		t.Helper()
		var me struct {
			Budgets []budget `json:"budgets"`
		}
		w.get("/users/me", ada).is(200).decode(&me)
		if len(me.Budgets) != 1 || me.Budgets[0].DailyRows != 10 {
			t.Fatalf("budgets: %v", me.Budgets)
		}
		return me.Budgets[0].Left
	}
	w.post("/predict", ada, strings.Replace(rows(3), "X", "Y", 1)).is(400)
	w.post("/predict", ada, strings.Replace(rows(3), "iris", "absent", 1)).is(403)
	w.post("/predict", ada, rows(11)).is(413)
	if n := left(); n != 10 {
		t.Errorf("%d rows are left of 10 after predictions that never began", n)
	}
	gate := w.fake.HoldRuns()
	w.post("/predict", ada, rows(4)).refused(504, "deadline")
	gate.Open()
	if n := left(); n != 6 {
		t.Errorf("%d rows are left of 10 after a run of 4 that took too long", n)
	}
}

// TestDailyRowsWithoutDatabase: beyond what was taken ahead nothing is granted
// while the database is away, and who has no budget notices nothing.
func TestDailyRowsWithoutDatabase(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.do(request{method: "PUT", path: "/admin/roles/metered", token: w.admin, json: `{"daily_rows":500}`}).is(200)
	_, ada := w.user("ada", "metered")
	w.post("/predict", ada, irisRow).is(200)
	w.post("/predict", w.admin, irisRow).is(200)
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	w.post("/predict", ada, rows(4)).is(200) // five are taken at a time
	got := w.post("/predict", ada, irisRow)
	got.refused(503, "unavailable")
	if got.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	w.post("/predict", w.admin, irisRow).is(200)
}
