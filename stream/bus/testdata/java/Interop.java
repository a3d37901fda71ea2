import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The Java client beside autohedge's.
 *
 * <p>read BROKERS TOPIC PARTITION: prints every record of the partition, from its start to its end as it is now:
 * offset, timestamp, key and value in hexadecimal digits ("-" is null, "=" is empty). The client checks the CRC.
 *
 * <p>write BROKERS TOPIC COMPRESSION: appends the records on standard input, a line each: key and value as above. The
 * client chooses the partition by the key. Prints partition and offset of each, in their order.
 */
public class Interop {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("read")) {
            read(args[1], new TopicPartition(args[2], Integer.parseInt(args[3])));
        } else {
            write(args[1], args[2], args[3]);
        }
    }

    static void read(String brokers, TopicPartition partition) {
        Map<String, Object> config = Map.of("bootstrap.servers", brokers, "check.crcs", "true", "auto.offset.reset", "none");
        StringBuilder out = new StringBuilder();
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            while (consumer.position(partition) < end) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofSeconds(1))) {
                    out.append(r.offset()).append(' ').append(r.timestamp()).append(' ');
                    out.append(hex(r.key())).append(' ').append(hex(r.value())).append('\n');
                }
            }
        }
        System.out.print(out);
        System.out.flush();
    }

    static void write(String brokers, String topic, String compression) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", brokers, "compression.type", compression, "acks", "all", "linger.ms", "50");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        var sent = new java.util.ArrayList<java.util.concurrent.Future<org.apache.kafka.clients.producer.RecordMetadata>>();
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (String line; (line = in.readLine()) != null; ) {
                String[] f = line.split(" ");
                var record = new ProducerRecord<>(topic, bytes(f[0]), bytes(f[1]));
                record.headers().add("origin", new byte[] {1, 2, 3}); // autohedge writes none, and passes over them
                sent.add(producer.send(record));
            }
        }
        StringBuilder out = new StringBuilder();
        for (var f : sent) {
            out.append(f.get().partition()).append(' ').append(f.get().offset()).append('\n');
        }
        System.out.print(out);
        System.out.flush();
    }

    static String hex(byte[] b) {
        return b == null ? "-" : b.length == 0 ? "=" : HexFormat.of().formatHex(b);
    }

    static byte[] bytes(String s) {
        return s.equals("-") ? null : s.equals("=") ? new byte[0] : HexFormat.of().parseHex(s);
    }
}
