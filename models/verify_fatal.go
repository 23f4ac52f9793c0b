package models

import (
	"hash/maphash"
	"slices"
)

// fatal refuses a node that the runtime may not survive, whatever else the file
// says; and notes in n what knownScales has to know.
func (c *check) fatal(op string, node []byte, n names) error {
	switch op {
	case "DFT":
		return endlessDFT(node)
	case "Split":
		return unevenSplit(node)
	case "LinearClassifier", "TreeEnsembleClassifier":
		return unwrittenScores(node)
	case "Constant":
		return nodeMessage.walk(node, func(f field) error {
			if f.num == 2 {
				n[maphash.Bytes(c.seed, f.data)] |= usedKnown
			}
			return nil
		})
	case "Resize", "Upsample":
		var scales []byte // the second input; the third, for a Resize since opset 11
		inputs := 0
		err := nodeMessage.walk(node, func(f field) error {
			if f.num == 1 {
				if inputs++; inputs == 2 || inputs == 3 {
					scales = f.data
				}
			}
			return nil
		})
		if len(scales) > 0 {
			n[maphash.Bytes(c.seed, scales)] |= usedScales
		}
		return err
	}
	return nil
}

// knownScales refuses a Resize or Upsample whose number of scales is known only
// when it runs: ONNX Runtime 1.30.0 copies all of them to where there is room
// for as many as the image has dimensions, and only then counts them. Constants
// it counts when it loads the model. inputs are those that callers give, whose
// declared size each prediction is held to.
func (c *check) knownScales(n names, inputs []GraphValue) error {
	// Fewer than the runtime has room for, whatever the image is like.
	const fewScales = 6
	for _, v := range inputs {
		key := maphash.String(c.seed, v.Name)
		if len(v.Shape) == 1 && v.Shape[0] >= 0 && v.Shape[0] <= fewScales && n[key]&usedInitializer == 0 {
			n[key] |= usedKnown
		}
	}
	for _, as := range n {
		// An initializer that is an input too is only a default.
		constant := as&usedInitializer != 0 && (as&usedInput == 0 || c.ir < overridableIR)
		if as&usedScales != 0 && as&usedKnown == 0 && !constant {
			return refuse("unsupported_operator", "the scales of a Resize or Upsample are computed, and the runtime does not survive it when they are too many; make them a constant, or give sizes instead")
		}
	}
	return nil
}

// overridableIR is the first version of the format in which an initializer that
// is an input too is but its default.
const overridableIR = 4

// endlessDFT refuses a DFT node on which the runtime may compute for ever,
// with nothing to end it: a run is ended between nodes. An inverse one-sided
// transform without dft_length makes 2*(n-1) numbers of n along its axis, and
// ONNX Runtime 1.30.0 does not come back from making none of one. A dft_length
// that is not positive it refuses itself.
//
// Attributes that a function takes from its call count as set.
func endlessDFT(node []byte) error {
	inputs, hasLength, inverse, onesided := 0, false, false, false
	err := nodeMessage.walk(node, func(f field) error {
		switch f.num {
		case 1:
			inputs++
			hasLength = hasLength || inputs == 2 && len(f.data) > 0
		case 5:
			var name []byte
			on := false
			err := attributeMessage.walk(f.data, func(f field) error {
				switch f.num {
				case 1:
					name = f.data
				case 3:
					on = on || f.number != 0
				case 21:
					on = on || len(f.data) > 0
				}
				return nil
			})
			inverse = inverse || on && string(name) == "inverse"
			onesided = onesided || on && string(name) == "onesided"
			return err
		}
		return nil
	})
	if err == nil && inverse && onesided && !hasLength {
		err = refuse("unsupported_operator", "the file has an inverse one-sided DFT without dft_length, on which the runtime may compute for ever; give the node its dft_length")
	}
	return err
}

// unevenSplit refuses a Split with num_outputs that has not as many
// outputs: ONNX Runtime 1.30.0 ends the process when it loads one with more. A
// number that a function takes from its call may be any.
func unevenSplit(node []byte) error {
	outputs, asked, has := int64(0), int64(0), false
	err := nodeMessage.walk(node, func(f field) error {
		switch f.num {
		case 2:
			outputs++
		case 5:
			var name []byte
			number, taken := int64(0), false
			err := attributeMessage.walk(f.data, func(f field) error {
				switch f.num {
				case 1:
					name = f.data
				case 3:
					number = int64(f.number)
				case 21:
					taken = len(f.data) > 0
				}
				return nil
			})
			if string(name) == "num_outputs" {
				if asked, has = number, true; taken {
					asked = -1
				}
			}
			return err
		}
		return nil
	})
	if err == nil && has && asked != outputs {
		err = refuse("unsupported_operator", "the file has a Split whose num_outputs is not the number of its outputs, which the runtime does not survive")
	}
	return err
}

// scoreTransforms are the values of post_transform for which the runtime writes
// all scores.
var scoreTransforms = []string{"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"}

// unwrittenScores refuses a classifier node of which the runtime may leave
// scores unwritten: with PROBIT, for which ONNX Runtime 1.30.0 also takes words
// that it does not know, the second of two classes has none when the file gives
// one score for both. What a caller then sees is what the memory held before,
// such as another's inputs.
//
// A word that a function takes from its call may be any.
func unwrittenScores(node []byte) error {
	plain := true
	err := nodeMessage.walk(node, func(f field) error {
		if f.num != 5 {
			return nil
		}
		var name, word []byte
		given := false
		err := attributeMessage.walk(f.data, func(f field) error {
			switch f.num {
			case 1:
				name = f.data
			case 4:
				word = f.data
			case 21:
				given = len(f.data) > 0
			}
			return nil
		})
		if string(name) == "post_transform" {
			plain = plain && !given && slices.Contains(scoreTransforms, string(word))
		}
		return err
	})
	if err == nil && !plain {
		err = refuse("unsupported_operator", "the file has a classifier whose post_transform is not NONE, SOFTMAX, LOGISTIC or SOFTMAX_ZERO; with PROBIT the runtime leaves scores unset. Export it with one of these")
	}
	return err
}
