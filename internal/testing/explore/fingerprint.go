package explore

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"
)

// Fingerprint writes all that a value holds, unexported fields included, so that no field is forgotten that is added later.
// Of each value it first asks replace, which is given the names of the fields on the way to it, joined by dots, and returns
// what is to be written in its stead, if anything is. Maps are sorted. Functions and channels are left out.
func Fingerprint(v any, replace func(path string, v reflect.Value) (string, bool)) string {
	var b strings.Builder
	walk(&b, "", reflect.ValueOf(v), replace)
	return b.String()
}

func walk(b *strings.Builder, path string, v reflect.Value, replace func(string, reflect.Value) (string, bool)) {
	if !v.IsValid() {
		b.WriteString("nil")
		return
	}
	if s, ok := replace(path, v); ok {
		b.WriteString(s)
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil")
			return
		}
		walk(b, path, v.Elem(), replace)
	case reflect.Struct:
		b.WriteByte('{')
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			b.WriteString(name + ":")
			walk(b, strings.TrimPrefix(path+"."+name, "."), v.Field(i), replace)
			b.WriteByte(' ')
		}
		b.WriteByte('}')
	case reflect.Slice, reflect.Array:
		b.WriteByte('[')
		for i := range v.Len() {
			walk(b, path, v.Index(i), replace)
			b.WriteByte(' ')
		}
		b.WriteByte(']')
	case reflect.Map:
		walkMap(b, path, v, replace)
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
	default:
		fmt.Fprintf(b, "%v", v)
	}
}

func walkMap(b *strings.Builder, path string, v reflect.Value, replace func(string, reflect.Value) (string, bool)) {
	var list []string
	for i := v.MapRange(); i.Next(); {
		var e strings.Builder
		walk(&e, path, i.Key(), replace)
		e.WriteByte('=')
		walk(&e, path, i.Value(), replace)
		list = append(list, e.String())
	}
	slices.Sort(list)
	fmt.Fprintf(b, "map%v", list)
}

// Get reads a value that may be in an unexported field. It must be of type T and addressable, as all is that is reached
// through a pointer.
func Get[T any](v reflect.Value) T {
	return *(*T)(unsafe.Pointer(v.UnsafeAddr()))
}
