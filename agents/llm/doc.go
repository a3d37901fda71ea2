// Package llm asks an OpenAI-compatible endpoint one question and says exactly
// what came back. It owns the HTTP exchange as bytes, the classification of
// everything an endpoint can answer (refusal, truncation, filter, 429, 5xx,
// garbage, silence), and the strict decoder for answers. It is the only home of
// go-openai.
//
// It must not know what a signal, a desk or a topic is, and it never retries:
// one request, one Exchange. Start with Client.Complete, then Decode.
package llm
