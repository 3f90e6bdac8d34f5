// The fleet benchmark's contestant from go-control-plane: its snapshot cache or its linear cache.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// name is that of the i-th cluster.
func name(i int) string { return fmt.Sprintf("cluster-%06d", i) }

// cluster has three endpoints; its connect timeout tells its generation.
func cluster(i, generation int) types.Resource {
	locality := &endpointv3.LocalityLbEndpoints{}
	for host := 101; host < 104; host++ {
		socket := &corev3.SocketAddress{
			Address:       fmt.Sprintf("10.%d.%d.%d", 100+i/100%100, 100+i%100, host),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8080},
		}
		address := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socket}}
		endpoint := &endpointv3.Endpoint{Address: address, Hostname: fmt.Sprintf("endpoint-%d.internal", host)}
		locality.LbEndpoints = append(locality.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: endpoint},
		})
	}
	timeout := 5*time.Second + time.Duration(generation%1_000_000)*time.Microsecond
	return &clusterv3.Cluster{
		Name:           name(i),
		ConnectTimeout: durationpb.New(timeout),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name(i),
			Endpoints:   []*endpointv3.LocalityLbEndpoints{locality},
		},
	}
}

// contestant is told what to serve.
type contestant interface {
	load(n int) error
	update(i, generation int) error
}

// everybody makes all nodes one group, which is how a fleet shares a snapshot.
type everybody struct{}

func (everybody) ID(*corev3.Node) string { return "fleet" }

// snapshots sets a new snapshot with each change, since there is no other way to make one.
type snapshots struct {
	cache    cache.SnapshotCache
	clusters []types.Resource
	version  int
}

func (s *snapshots) load(n int) error {
	s.clusters = make([]types.Resource, n)
	for i := range s.clusters {
		s.clusters[i] = cluster(i, 0)
	}
	return s.set()
}

func (s *snapshots) update(i, generation int) error {
	s.clusters[i] = cluster(i, generation)
	return s.set()
}

func (s *snapshots) set() error {
	s.version++
	resources := map[resource.Type][]types.Resource{resource.ClusterType: s.clusters}
	snapshot, err := cache.NewSnapshot(strconv.Itoa(s.version), resources)
	if err != nil {
		return err
	}
	return s.cache.SetSnapshot(context.Background(), "fleet", snapshot)
}

// linear changes single resources.
type linear struct{ cache *cache.LinearCache }

func (l linear) load(n int) error {
	resources := make(map[string]types.Resource, n)
	for i := range n {
		resources[name(i)] = cluster(i, 0)
	}
	l.cache.SetResources(resources)
	return nil
}

func (l linear) update(i, generation int) error {
	return l.cache.UpdateResource(name(i), cluster(i, generation))
}

func main() {
	grpcPort := flag.Int("grpc", 0, "the `port` on which to serve ADS")
	httpPort := flag.Int("http", 0, "the `port` on which to be told what to serve")
	kind := flag.String("cache", "snapshot", "snapshot or linear")
	flag.Parse()

	var served cache.Cache
	var told contestant
	switch *kind {
	case "snapshot":
		snapshotCache := cache.NewSnapshotCache(true, everybody{}, nil)
		served, told = snapshotCache, &snapshots{cache: snapshotCache}
	case "linear":
		linearCache := cache.NewLinearCache(resource.ClusterType)
		mux := &cache.MuxCache{
			Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
			ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
			Caches:        map[string]cache.Cache{resource.ClusterType: linearCache},
		}
		served, told = mux, linear{linearCache}
	default:
		log.Fatalf("-cache is snapshot or linear, not %q", *kind)
	}

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *grpcPort))
	if err != nil {
		log.Fatal(err)
	}
	grpcServer := grpc.NewServer(grpc.MaxConcurrentStreams(math.MaxInt32), grpc.MaxRecvMsgSize(32<<20))
	ads := server.NewServer(context.Background(), served, nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, ads)
	go func() { log.Fatal(grpcServer.Serve(listener)) }()

	log.Fatal(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *httpPort), control(told)))
}

// control is the HTTP interface that every contestant has.
func control(told contestant) http.Handler {
	var one sync.Mutex
	handle := func(act func(number func(string) int) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			one.Lock()
			defer one.Unlock()
			number := func(key string) int {
				n, _ := strconv.Atoi(r.URL.Query().Get(key))
				return n
			}
			if err := act(number); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
	}
	mux := http.NewServeMux()
	mux.Handle("POST /load", handle(func(number func(string) int) error {
		return told.load(number("n"))
	}))
	mux.Handle("POST /update", handle(func(number func(string) int) error {
		return told.update(number("i"), number("gen"))
	}))
	return mux
}
