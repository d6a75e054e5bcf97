// Starts Swagger UI. A file of its own, because the page's policy allows no inline script.
const ORDER = ["tasks", "accounts", "health"];

window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  // The document has them by the alphabet, and whoever tries it looks for tasks.
  tagsSorter: (one, other) => ORDER.indexOf(one) - ORDER.indexOf(other),
  tryItOutEnabled: true,
  validatorUrl: null,
});

// Swagger UI gives the focus to the last form of its dialog, and so scrolls past the login.
new MutationObserver(() => {
  const login = document.querySelector("#oauth_username:not([data-shown])");
  if (login) {
    login.dataset.shown = "true";
    setTimeout(() => {
      login.focus();
      login.closest(".modal-ux-content").scrollTop = 0;
    });
  }
}).observe(document.body, { childList: true, subtree: true });
