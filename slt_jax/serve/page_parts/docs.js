// The OpenAPI document as a page.
const make = (name, content = "", of = {}) => {
  const element = Object.assign(document.createElement(name), of);
  element.append(...[content].flat());
  return element;
};

// `code` in a description.
const marked = (text = "") => text.split(/`([^`]*)`/).map((part, place) => (place % 2 ? make("code", part) : part));

const described = await (await fetch("openapi.json")).json();
const resolved = (schema) => (schema.$ref ? described.components.schemas[schema.$ref.split("/").at(-1)] : schema);

const properties = (schema) => make("table", make("tbody", Object.entries(resolved(schema).properties ?? {}).map(
  ([name, { description, type }]) => make("tr", [make("td", make("code", name)), make("td", description ?? [type].flat().join(" or "))]),
)));

document.getElementById("title").textContent = `${described.info.title} ${described.info.version}`;
const token = described.components.securitySchemes ? " -H 'Authorization: Bearer TOKEN'" : "";
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const parts = [
      make("h2", [make("span", method.toUpperCase(), { className: "method" }), " ", make("code", path), " ", operation.summary]),
      make("p", marked(operation.description?.replace(/(?<!\n)\n(?!\n)/g, " "))),
    ];
    const form = operation.requestBody?.content["multipart/form-data"];
    if (form) {
      parts.push(make("h3", "Fields"), properties(form.schema));
      parts.push(make("pre", `curl${token} -F file=@video.mp4 ${new URL(path.slice(1), location.href)}`));
    }
    const rows = Object.entries(operation.responses).map(([status, { description, content }]) => make("tr", [
      make("td", status), make("td", [description, " ", make("small", Object.keys(content ?? {}).join(", "))]),
    ]));
    parts.push(make("h3", "Answers"), make("table", make("tbody", rows)));
    document.getElementById("paths").append(make("article", parts));
  }
}
