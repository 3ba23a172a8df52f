package main

import (
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"eniagent/agent/source/kubelet/kubelettest"
)

// cmdKubelet is a kubelet at the socket "kubelet.sock" of the script's
// directory: "kubelet [POD DEVICE]" makes it one that has allocated the device
// to the pod, and nothing else; "kubelet stop" ends it and leaves its socket.
func cmdKubelet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 2 || len(args) == 1 && args[0] != "stop" {
		ts.Fatalf("usage: kubelet [stop | NAMESPACE/NAME DEVICE]")
	}
	w := worldOf(ts)
	if len(args) == 1 {
		w.kubelet.Stop()
		w.kubelet = nil
		return
	}
	if w.kubelet == nil {
		k, err := kubelettest.Serve(filepath.Join(w.dir, "kubelet.sock"))
		ts.Check(err)
		w.kubelet = k
		ts.Defer(func() {
			if w.kubelet == k {
				k.Stop()
			}
		})
	}
	var pods []kubelettest.Pod
	if len(args) == 2 {
		namespace, name, _ := strings.Cut(args[0], "/")
		pods = append(pods, kubelettest.Pod{Namespace: namespace, Name: name, Container: "dpdk", Resource: "intel.com/vf", Devices: args[1:]})
	}
	w.kubelet.Run(pods...)
}
