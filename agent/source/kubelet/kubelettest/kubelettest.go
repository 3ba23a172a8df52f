// Package kubelettest is a kubelet for tests: a gRPC server of its pod-resources
// API, on a unix socket.
package kubelettest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Pod is a pod with one container that has devices of one resource.
type Pod struct {
	Namespace, Name, Container, Resource string
	Devices                              []string
}

// Kubelet answers List.
type Kubelet struct {
	podresources.UnimplementedPodResourcesListerServer

	server *grpc.Server
	served chan struct{}

	mu    sync.Mutex
	pods  []*podresources.PodResources
	fault func(context.Context) error
	asked int
}

// Serve starts a kubelet, in the place of one that was there before.
func Serve(socket string) (*Kubelet, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false) // a kubelet that ends leaves its socket
	k := &Kubelet{server: grpc.NewServer(), served: make(chan struct{})}
	podresources.RegisterPodResourcesListerServer(k.server, k)
	go func() {
		defer close(k.served)
		_ = k.server.Serve(l)
	}()
	return k, nil
}

// Stop ends it as a kill does: the socket stays.
func (k *Kubelet) Stop() {
	k.server.Stop()
	<-k.served
}

// Run is what it answers from now on: these pods, and no others.
func (k *Kubelet) Run(pods ...Pod) {
	var all []*podresources.PodResources
	for _, p := range pods {
		all = append(all, &podresources.PodResources{
			Namespace: p.Namespace, Name: p.Name, Containers: []*podresources.ContainerResources{{
				Name: p.Container, Devices: []*podresources.ContainerDevices{{ResourceName: p.Resource, DeviceIds: p.Devices}},
			}},
		})
	}
	k.Answer(all...)
}

// Answer is Run in the API's own words.
func (k *Kubelet) Answer(pods ...*podresources.PodResources) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods = pods
}

// Fault is called for each question; its error is the answer. Nil is none.
func (k *Kubelet) Fault(f func(context.Context) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// Asked is how many questions there were.
func (k *Kubelet) Asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// List is the API's.
func (k *Kubelet) List(ctx context.Context, _ *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	k.mu.Lock()
	k.asked++
	fault, pods := k.fault, k.pods
	k.mu.Unlock()
	if fault != nil {
		if err := fault(ctx); err != nil {
			return nil, err
		}
	}
	return &podresources.ListPodResourcesResponse{PodResources: pods}, nil
}
