import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.HexFormat;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

/**
 * Prints, for each key on standard input (one a line, in hexadecimal digits), the key, the Java client's murmur2 of
 * it and the partition that its producer chooses among each number of partitions given as an argument.
 */
public class Murmur {
    public static void main(String[] counts) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        StringBuilder out = new StringBuilder();
        for (String line; (line = in.readLine()) != null; ) {
            byte[] key = HexFormat.of().parseHex(line);
            out.append(line).append(' ').append(Utils.murmur2(key));
            for (String n : counts) {
                out.append(' ').append(BuiltInPartitioner.partitionForKey(key, Integer.parseInt(n)));
            }
            out.append('\n');
        }
        new PrintStream(System.out).print(out);
    }
}
