// Command echo is a workload for tests: a server that says where it runs, and the clients to try it with.
//
// Clients try once and say by their exit code whether it worked (0), did not (1), or was asked wrongly (2); the answer is
// on stdout, the reason on stderr.
package main

import (
	"fmt"
	"os"
)

const help = `usage:
  echo serve [-listen :8080] [-cert FILE -key FILE]    HTTP(S) and UDP: / and UDP answer the host's name,
                                                       /client the client's address, /healthz ok
  echo get [-timeout 5s] [-ca FILE] [-name NAME] URL   print the body; anything but 2xx is a failure
  echo udp [-timeout 5s] HOST:PORT                     send a datagram, print the answer
  echo dial [-timeout 5s] HOST:PORT                    open a TCP connection and close it
  echo lookup [-timeout 5s] [-server IP:PORT] NAME     print a name's addresses, sorted
  echo tree DIR                                        print all below: mode, owner, links, time, contents, path
  echo sleep                                           wait for TERM or INT
`

func main() {
	verbs := map[string]func([]string) error{
		"serve": serve, "get": get, "udp": udp, "dial": dial, "lookup": lookup, "tree": tree, "sleep": sleep,
	}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		usage()
	}
	if err := verbs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprint(os.Stderr, help)
	os.Exit(2)
}
