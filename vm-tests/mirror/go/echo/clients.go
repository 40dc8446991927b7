package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"time"
)

// client reads the flags that every client has; the one argument after them is returned.
func client(name string, args []string, more func(*flag.FlagSet)) (string, time.Duration) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	timeout := flags.Duration("timeout", 5*time.Second, "how long to try")
	if more != nil {
		more(flags)
	}
	flags.Parse(args)
	if flags.NArg() != 1 {
		usage()
	}
	return flags.Arg(0), *timeout
}

func get(args []string) error {
	var authorities, name string
	url, timeout := client("get", args, func(flags *flag.FlagSet) {
		flags.StringVar(&authorities, "ca", "", "file of the authorities to trust, and no others")
		flags.StringVar(&name, "name", "", "name that the certificate must be for, and that is asked for")
	})
	config := &tls.Config{ServerName: name}
	if authorities != "" {
		text, err := os.ReadFile(authorities)
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("`%s` holds no certificate", authorities)
		}
	}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Host = name
	// A connection of its own each time: a kept one would always reach the same pod.
	browser := http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	response, err := browser.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

func udp(args []string) error {
	address, timeout := client("udp", args, nil)
	connection, err := net.DialTimeout("udp", address, timeout)
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(timeout))
	if _, err := connection.Write([]byte("hello\n")); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	length, err := connection.Read(buffer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(buffer[:length])
	return err
}

func dial(args []string) error {
	address, timeout := client("dial", args, nil)
	connection, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return err
	}
	return connection.Close()
}

func lookup(args []string) error {
	var server string
	name, timeout := client("lookup", args, func(flags *flag.FlagSet) {
		flags.StringVar(&server, "server", "", "the name server to ask instead of those of /etc/resolv.conf")
	})
	resolver := net.Resolver{PreferGo: true}
	if server != "" {
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, server)
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	addresses, err := resolver.LookupHost(limit, name)
	if err != nil {
		return err
	}
	sort.Strings(addresses)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return nil
}
