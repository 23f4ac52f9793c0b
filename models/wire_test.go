package models

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// msg builds protobuf messages by field number, so that tests can write what
// no library would.
type msg []byte

func (m msg) num(field protowire.Number, v int64) msg {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), uint64(v))
}

func (m msg) str(field protowire.Number, s string) msg {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m msg) sub(field protowire.Number, subs ...msg) msg {
	for _, s := range subs {
		m = protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), s)
	}
	return m
}

func (m msg) fixed32(field protowire.Number, v uint32) msg {
	return protowire.AppendFixed32(protowire.AppendTag(m, field, protowire.Fixed32Type), v)
}

// packed appends numbers as one packed field.
func (m msg) packed(field protowire.Number, vs ...int64) msg {
	var p []byte
	for _, v := range vs {
		p = protowire.AppendVarint(p, uint64(v))
	}
	return m.sub(field, p)
}

// The messages of onnx.proto that tests need.

func dims(sizes ...int64) msg {
	m := msg{}
	for _, s := range sizes {
		if s == -1 {
			m = m.sub(1, msg{}.str(2, "N"))
		} else {
			m = m.sub(1, msg{}.num(1, s))
		}
	}
	return m
}

func tensorOf(elem int64, sizes ...int64) msg {
	return msg{}.sub(1, msg{}.num(1, elem).sub(2, dims(sizes...)))
}

func value(name string, typ msg) msg { return msg{}.str(1, name).sub(2, typ) }

func node(op string, in, out []string, attributes ...msg) msg {
	m := msg{}
	for _, s := range in {
		m = m.str(1, s)
	}
	for _, s := range out {
		m = m.str(2, s)
	}
	return m.str(4, op).sub(5, attributes...)
}

func inDomain(n msg, domain string) msg { return n.str(7, domain) }

func relu() msg { return node("Relu", []string{"x"}, []string{"y"}) }

// graphWith is a whole graph from x to y with more in it.
func graphWith(more ...func(msg) msg) msg {
	g := msg{}.sub(1, relu()).str(2, "g").sub(11, value("x", tensorOf(1, -1, 3))).sub(12, value("y", tensorOf(1, -1, 3)))
	for _, f := range more {
		g = f(g)
	}
	return g
}

func add(field protowire.Number, subs ...msg) func(msg) msg {
	return func(m msg) msg { return m.sub(field, subs...) }
}

// modelWith is a whole model around a graph.
func modelWith(graph msg, more ...func(msg) msg) msg {
	m := msg{}.num(1, 10).sub(7, graph).sub(8, msg{}.str(1, "").num(2, 21))
	for _, f := range more {
		m = f(m)
	}
	return m
}

// initializer is a float tensor w of the given shape with n floats of raw data.
func initializer(n int, sizes ...int64) msg {
	m := msg{}
	for _, s := range sizes {
		m = m.num(1, s)
	}
	return m.num(2, 1).str(8, "w").sub(9, make(msg, 4*n))
}

func function(domain, name string, nodes ...msg) msg {
	return msg{}.str(1, name).str(4, "a").str(5, "b").sub(7, nodes...).sub(9, msg{}.str(1, "").num(2, 21)).str(10, domain)
}

// ifNode holds a graph with the nodes.
func ifNode(out string, nodes ...msg) msg {
	body := msg{}.sub(1, nodes...).str(2, "body").sub(12, value("r", tensorOf(1, 3)))
	return node("If", []string{"c"}, []string{out}, msg{}.str(1, "then_branch").sub(6, body).num(20, 5))
}
