package config

// SampleFile returns the configuration that `autohedge config init` writes:
// every key with its default and what it means.
func SampleFile() string {
	return `# autohedge configuration. Every key has the default that is shown; what you
# leave out stays at it. ${NAME} and ${NAME:-default} take environment variables;
# a .env file beside this one is read too. Check it with:
#   autohedge check --config autohedge.yaml

` + Sample(Default())
}

// SampleEnv is the template for .env: what should not stand in a file that is
// shared.
const SampleEnv = `# Copy to .env and fill in what you use. The environment wins over this file.
# Refer to them in autohedge.yaml as ${NAME}.

# An OpenAI-compatible endpoint for the desk (agents.llm).
OPENAI_API_KEY=

# A ClickHouse server (clickhouse.password) and Kafka (kafka.password).
CLICKHOUSE_PASSWORD=
KAFKA_PASSWORD=

# Where everything embedded lies, and a ClickHouse library of your own.
#AUTOHEDGE_DATA=
#AUTOHEDGE_LIBCHDB=
`
