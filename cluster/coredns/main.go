// Command coredns is the DNS server of the local cluster: CoreDNS with only the
// plugins that the Corefile uses, which keeps the build short and the binary small.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
)

func init() {
	// Order in which a query passes the plugins, regardless of the Corefile.
	// It is the order in CoreDNS's own plugin.cfg.
	dnsserver.Directives = []string{
		"health",
		"ready",
		"errors",
		"cache",
		"loadbalance",
		"kubernetes",
		"forward",
	}
}

func main() {
	coremain.Run()
}
