package models

// attribute checks an AttributeProto of a node at depth, and tells its name and
// whether it holds a graph. Whatever value is there is checked; there may be
// one alone, and of the type that the attribute says, if it says one: the
// runtime goes by the type, and might take a default in its place.
func (c *check) attribute(b []byte, sc *scope, depth int) (name []byte, hasGraph bool, err error) {
	var values uint32 // fields that hold a value
	var kind, holds uint64
	taken := false // from the call of a function
	err = c.walk(&attributeMessage, b, func(f field) error {
		switch f.num {
		case 1:
			name = f.data
			return nil
		case 13:
			return nil
		case 20:
			if kind = f.number; kind > 14 {
				return refuse("unknown_field", "an attribute is of a type (%d) that ONNX does not know", kind)
			}
			return nil
		case 21:
			taken = len(f.data) > 0
			return nil
		}
		values |= 1 << f.num
		holds = attrTypes[f.num]
		if f.num == 6 || f.num == 11 {
			hasGraph = true
			return c.graph(f.data, sc, depth+1, nil)
		}
		return c.attributeValue(f)
	})
	switch {
	case err != nil:
	case values&(values-1) != 0:
		err = refuse("not_onnx", "the file is damaged: an attribute has several values")
	case kind != 0 && holds != 0 && kind != holds:
		err = refuse("not_onnx", "the file is damaged: an attribute has a value of another type (%d) than it says (%d)", holds, kind)
	case taken && (values != 0 || !sc.function):
		err = refuse("not_onnx", "the file is damaged: an attribute is to be taken from a function's call, but has a value or stands in no function")
	case !taken && values == 0 && singleMessage(kind):
		err = refuse("not_onnx", "the file is damaged: an attribute has no value")
	}
	return name, hasGraph, err
}

// singleMessage reports whether attributes of the type hold one message: of
// numbers, strings and lists some exporters leave out those that are 0 or empty.
func singleMessage(kind uint64) bool {
	return kind == attrTypes[5] || kind == attrTypes[6] || kind == attrTypes[14] || kind == attrTypes[22]
}

// attributeValue checks a value other than a graph.
func (c *check) attributeValue(f field) (err error) {
	switch f.num {
	case 5, 10:
		_, err = c.tensor(f.data)
	case 7:
		_, err = f.countFixed(4)
	case 8:
		_, err = f.count()
	case 14, 15:
		_, err = c.valueType(f.data, 0)
	case 22, 23:
		_, err = c.sparse(f.data)
	}
	return err
}
