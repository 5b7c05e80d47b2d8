// What the official SDKs get from a gateway: GATEWAY_URL, GATEWAY_KEY in the environment; prints one JSON object.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const { GATEWAY_URL, GATEWAY_KEY } = process.env;
const openai = new OpenAI({ baseURL: `${GATEWAY_URL}/v1`, apiKey: GATEWAY_KEY, maxRetries: 2 });
const anthropic = new Anthropic({ baseURL: GATEWAY_URL, apiKey: GATEWAY_KEY, maxRetries: 2 });
const messages = [{ role: 'user', content: 'Which plan has SSO?' }];
const order = [{ role: 'user', content: 'Where is order 17?' }];
const schema = { type: 'object', properties: { number: { type: 'integer' } }, required: ['number'] };
const found = {};

for (const model of ['gpt-4o-mini', 'claude-haiku-4-5']) {
  const { data, response } = await openai.chat.completions.create({ model, messages, user: 'ann' }).withResponse();
  let streamed = '';
  let last;
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await openai.chat.completions.create({ model, messages, ...options })) {
    streamed += chunk.choices[0]?.delta?.content ?? '';
    last = chunk;
  }
  const tools = [{ type: 'function', function: { name: 'get_order', parameters: schema } }];
  const calling = openai.chat.completions.stream({ model, messages: order, tools, tool_choice: 'required' });
  const called = await calling.finalChatCompletion();
  found[`openai ${model}`] = {
    text: data.choices[0].message.content,
    cost: response.headers.get('x-parley-cost-usd'),
    streamed,
    usage: last.usage,
    call: called.choices[0].message.tool_calls[0].function,
  };

  const message = await anthropic.messages.create({ model, max_tokens: 200, messages });
  const stream = anthropic.messages.stream({ model, max_tokens: 200, messages });
  const final = await stream.finalMessage();
  const wanted = [{ name: 'get_order', input_schema: schema }];
  const asked = { model, max_tokens: 200, messages: order, tools: wanted, tool_choice: { type: 'any' } };
  const toolMessage = await anthropic.messages.stream(asked).finalMessage();
  found[`anthropic ${model}`] = {
    text: message.content[0].text,
    streamed: final.content[0].text,
    usage: final.usage,
    call: toolMessage.content.find((block) => block.type === 'tool_use'),
    stop: toolMessage.stop_reason,
  };
}

const embedded = await openai.embeddings.create({ model: 'text-embedding-3-small', input: ['one', 'two'], dimensions: 8 });
found.embedded = { lengths: embedded.data.map((one) => one.embedding.length), usage: embedded.usage };

async function failure(ask) {
  try {
    await ask();
  } catch (error) {
    return { status: error.status, param: error.param ?? null, kind: error.constructor.name };
  }
  return null;
}

found.refused = [
  await failure(() => openai.chat.completions.create({ model: 'gpt-4o-mini', messages, n: 2 })),
  await failure(() => anthropic.messages.create({ model: 'gpt-4o-mini', max_tokens: 5, messages, top_k: 3 })),
];
const models = [];
for await (const model of openai.models.list()) models.push(model.id);
found.models = models;
console.log(JSON.stringify(found));
