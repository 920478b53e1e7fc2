// node hugging_face.js URL: asks Hugging Face's client what standard input says, and prints what became of each call.
//
// In:  [{"token": string?, "arguments": object}, ...], as JSON
// Out: [{"answer": array} | {"error": {"name", "message", "status"}}, ...]
import { text } from "node:stream/consumers";
import { InferenceClient } from "@huggingface/inference";

const endpointUrl = process.argv[2];

async function outcome(call) {
  try {
    return { answer: await new InferenceClient(call.token, { endpointUrl }).tokenClassification(call.arguments) };
  } catch (error) {
    return { error: { name: error.name, message: error.message, status: error.httpResponse?.status } };
  }
}

const outcomes = [];
for (const call of JSON.parse(await text(process.stdin))) outcomes.push(await outcome(call));
console.log(JSON.stringify(outcomes));
