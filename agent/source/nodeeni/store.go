package nodeeni

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/client-go/tools/cache"
)

// store is what a reflector fills: the objects that concern one node, and
// whether the API can be asked.
type store struct {
	node    string
	changed chan struct{} // has something when there is something new

	mu      sync.Mutex
	objects map[string]*object // by name
	listed  bool               // the objects are all there are
	err     error              // why the API cannot be asked now
}

func newStore(node string) *store {
	return &store{node: node, changed: make(chan struct{}, 1), objects: map[string]*object{}}
}

// snapshot is what there is, by name; listed is false while nobody knows.
func (s *store) snapshot() (all []*object, listed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = slices.SortedFunc(maps.Values(s.objects), func(a, b *object) int { return cmp.Compare(a.Name, b.Name) })
	return all, s.listed, s.err
}

func (s *store) tell() {
	select {
	case s.changed <- struct{}{}:
	default: // who has not looked yet will see this too
	}
}

// failed notes that the API could not be asked.
func (s *store) failed(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.tell()
}

// restored notes that it can be again.
func (s *store) restored() {
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
func (s *store) Transformer() cache.TransformFunc {
	return func(v any) (any, error) {
		if o, ok := v.(*object); ok {
			o.keep(s.node)
		}
		return v, nil
	}
}

// Add takes an object that is new.
func (s *store) Add(v any) error { return s.Update(v) }

// Update takes an object that changed.
func (s *store) Update(v any) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%T is no %s", v, Object)
	}
	s.mu.Lock()
	_, had := s.objects[o.Name]
	concerns := o.keep(s.node)
	if concerns {
		s.objects[o.Name] = o
	} else {
		delete(s.objects, o.Name)
	}
	s.mu.Unlock()
	if had || concerns {
		s.tell()
	}
	return nil
}

// Delete drops an object that is gone.
func (s *store) Delete(v any) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%T is no %s", v, Object)
	}
	s.mu.Lock()
	_, had := s.objects[o.Name]
	delete(s.objects, o.Name)
	s.mu.Unlock()
	if had {
		s.tell()
	}
	return nil
}

// Replace takes all objects there are.
func (s *store) Replace(all []any, _ string) error {
	objects := map[string]*object{}
	for _, v := range all {
		o, ok := v.(*object)
		if !ok {
			return fmt.Errorf("%T is no %s", v, Object)
		}
		if o.keep(s.node) {
			objects[o.Name] = o
		}
	}
	s.mu.Lock()
	s.objects, s.listed = objects, true
	s.mu.Unlock()
	s.tell()
	return nil
}

// Resync has nothing to do: what is kept is all that is looked at.
func (s *store) Resync() error { return nil }
