package nodeeni

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// item is an object as the source reads it.
type item interface {
	runtime.Object
	GetName() string
	// keep drops what does not concern a node, and says whether the object does.
	keep(node string) bool
}

// store is what a reflector fills: the objects of one kind that concern one node,
// and whether the API can be asked.
type store[T item] struct {
	node    string
	changed chan struct{} // has something when there is something new

	mu      sync.Mutex
	objects map[string]T // by name
	listed  bool         // the objects are all there are
	err     error        // why the API cannot be asked now
}

func newStore[T item](node string, changed chan struct{}) *store[T] {
	return &store[T]{node: node, changed: changed, objects: map[string]T{}}
}

// stores are those of all kinds.
type stores struct {
	changed  chan struct{} // has something when one of them has something new
	enis     *store[*object]
	policies *store[*policy]
	nodes    *store[*node]
}

func newStores(name string) *stores {
	changed := make(chan struct{}, 1)
	return &stores{changed, newStore[*object](name, changed), newStore[*policy](name, changed), newStore[*node](name, changed)}
}

// content is what a store has.
type content[T item] struct {
	all    []T   // by name
	listed bool  // false while nobody knows what there is
	err    error // why the API cannot be asked now
}

// told says that it is known what there is, or why it is not.
func (c content[T]) told() bool { return c.listed || c.err != nil }

func (s *store[T]) snapshot() content[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.SortedFunc(maps.Values(s.objects), func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return content[T]{all, s.listed, s.err}
}

// of is the node that it is about.
func (s *store[T]) of() string { return s.node }

func (s *store[T]) tell() {
	select {
	case s.changed <- struct{}{}:
	default: // who has not looked yet will see this too
	}
}

// failed notes that the API could not be asked.
func (s *store[T]) failed(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.tell()
}

// restored notes that it can be again.
func (s *store[T]) restored() {
	s.mu.Lock()
	had := s.err != nil
	s.err = nil
	s.mu.Unlock()
	if had {
		s.tell()
	}
}

// Transformer strips what is read of what does not concern the node, before it
// is kept anywhere.
func (s *store[T]) Transformer() cache.TransformFunc {
	return func(v any) (any, error) {
		if o, ok := v.(T); ok {
			o.keep(s.node)
		}
		return v, nil
	}
}

// Add takes an object that is new.
func (s *store[T]) Add(v any) error { return s.Update(v) }

// Update takes an object that changed.
func (s *store[T]) Update(v any) error {
	o, ok := v.(T)
	if !ok {
		return fmt.Errorf("%T is no %T", v, o)
	}
	s.mu.Lock()
	old, had := s.objects[o.GetName()]
	concerns := o.keep(s.node)
	if concerns {
		s.objects[o.GetName()] = o
	} else {
		delete(s.objects, o.GetName())
	}
	s.mu.Unlock()
	if is, ok := any(o).(interface{ same(T) bool }); ok && had && concerns && is.same(old) {
		return nil
	}
	if had || concerns {
		s.tell()
	}
	return nil
}

// Delete drops an object that is gone.
func (s *store[T]) Delete(v any) error {
	o, ok := v.(T)
	if !ok {
		return fmt.Errorf("%T is no %T", v, o)
	}
	s.mu.Lock()
	_, had := s.objects[o.GetName()]
	delete(s.objects, o.GetName())
	s.mu.Unlock()
	if had {
		s.tell()
	}
	return nil
}

// Replace takes all objects there are.
func (s *store[T]) Replace(all []any, _ string) error {
	objects := map[string]T{}
	for _, v := range all {
		o, ok := v.(T)
		if !ok {
			return fmt.Errorf("%T is no %T", v, o)
		}
		if o.keep(s.node) {
			objects[o.GetName()] = o
		}
	}
	s.mu.Lock()
	s.objects, s.listed = objects, true
	s.mu.Unlock()
	s.tell()
	return nil
}

// Resync has nothing to do: what is kept is all that is looked at.
func (s *store[T]) Resync() error { return nil }
