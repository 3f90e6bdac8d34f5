import com.google.protobuf.Duration;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.envoyproxy.controlplane.cache.v3.SimpleCache;
import io.envoyproxy.controlplane.cache.v3.Snapshot;
import io.envoyproxy.controlplane.server.V3DiscoveryServer;
import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.core.v3.Address;
import io.envoyproxy.envoy.config.core.v3.SocketAddress;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.endpoint.v3.Endpoint;
import io.envoyproxy.envoy.config.endpoint.v3.LbEndpoint;
import io.envoyproxy.envoy.config.endpoint.v3.LocalityLbEndpoints;
import io.grpc.netty.NettyServerBuilder;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** The fleet benchmark's contestant from java-control-plane: one snapshot for all nodes. */
public final class Contestant {
  private final SimpleCache<String> cache = new SimpleCache<>(node -> "fleet");
  private final List<Cluster> clusters = new ArrayList<>();
  private int version;

  public static void main(String[] args) throws IOException {
    if (args.length != 4 || !args[0].equals("--grpc") || !args[2].equals("--http")) {
      System.err.println("usage: Contestant --grpc PORT --http PORT");
      System.exit(2);
    }
    Contestant contestant = new Contestant();
    V3DiscoveryServer ads = new V3DiscoveryServer(contestant.cache);
    NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])))
        .addService(ads.getAggregatedDiscoveryServiceImpl())
        .maxInboundMessageSize(32 << 20)
        .build()
        .start();
    HttpServer control =
        HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[3])), 0);
    control.createContext("/", contestant::control);
    control.start();
  }

  /** The HTTP interface that every contestant has. */
  private void control(HttpExchange exchange) throws IOException {
    Map<String, Integer> query =
        Stream.of(exchange.getRequestURI().getQuery().split("&"))
            .map(pair -> pair.split("="))
            .collect(Collectors.toMap(pair -> pair[0], pair -> Integer.parseInt(pair[1])));
    int status = 200;
    switch (exchange.getRequestURI().getPath()) {
      case "/load" -> load(query.get("n"));
      case "/update" -> update(query.get("i"), query.get("gen"));
      default -> status = 404;
    }
    exchange.sendResponseHeaders(status, -1);
    exchange.close();
  }

  private void load(int n) {
    clusters.clear();
    for (int i = 0; i < n; i++) {
      clusters.add(cluster(i, 0));
    }
    set();
  }

  private void update(int i, int generation) {
    clusters.set(i, cluster(i, generation));
    set();
  }

  private void set() {
    version++;
    String text = Integer.toString(version);
    cache.setSnapshot(
        "fleet", Snapshot.create(clusters, List.of(), List.of(), List.of(), List.of(), text));
  }

  /** A cluster of three endpoints; its connect timeout tells its generation. */
  private static Cluster cluster(int i, int generation) {
    LocalityLbEndpoints.Builder locality = LocalityLbEndpoints.newBuilder();
    for (int host = 101; host < 104; host++) {
      String ip = "10." + (100 + i / 100 % 100) + "." + (100 + i % 100) + "." + host;
      SocketAddress socket = SocketAddress.newBuilder().setAddress(ip).setPortValue(8080).build();
      Address address = Address.newBuilder().setSocketAddress(socket).build();
      String hostname = "endpoint-" + host + ".internal";
      Endpoint endpoint = Endpoint.newBuilder().setAddress(address).setHostname(hostname).build();
      locality.addLbEndpoints(LbEndpoint.newBuilder().setEndpoint(endpoint));
    }
    String name = String.format("cluster-%06d", i);
    return Cluster.newBuilder()
        .setName(name)
        .setConnectTimeout(
            Duration.newBuilder().setSeconds(5).setNanos(generation % 1_000_000 * 1_000))
        .setLoadAssignment(
            ClusterLoadAssignment.newBuilder().setClusterName(name).addEndpoints(locality))
        .build();
  }
}
