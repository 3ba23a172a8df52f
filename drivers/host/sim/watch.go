package sim

import (
	"context"
	"slices"

	"eniagent/drivers/host"
	"eniagent/supervise"
)

// Watch is host.Host. It reads behind the kernel's own log of events and never
// holds the kernel up; one that falls too far behind gets a "lost".
func (f *front) Watch(ctx context.Context) (<-chan host.Event, error) {
	var at uint64
	changed := f.store.changed()
	if err := f.store.view(func(m *machine) { at = m.Event }); err != nil {
		return nil, err
	}
	ch := make(chan host.Event)
	supervise.Of(ctx).Go("simulated events", func() {
		defer close(ch)
		for ctx.Err() == nil {
			wait(ctx, changed)
			changed = f.store.changed()
			var news []host.Event
			if err := f.store.view(func(m *machine) { news, at = m.since(at) }); err != nil {
				news = []host.Event{{What: host.EventLost}}
			}
			for _, e := range news {
				select {
				case ch <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return ch, nil
}

// since are the events after one, each once, and the number of the last one.
func (m *machine) since(at uint64) ([]host.Event, uint64) {
	if m.Event == at {
		return nil, at
	}
	n := m.Event - at
	if at > m.Event || n > uint64(len(m.Events)) {
		return []host.Event{{What: host.EventLost}}, m.Event
	}
	var news []host.Event
	for _, e := range m.Events[uint64(len(m.Events))-n:] {
		if !slices.Contains(news, e) {
			news = append(news, e)
		}
	}
	return news, m.Event
}
